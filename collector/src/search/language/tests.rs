use super::*;
use crate::search::fields::{self, Kind};
use expect_test::{Expect, expect};
use proptest::prelude::*;

#[track_caller]
fn reads(query: &str, expected: Expect) {
    match parse(query) {
        Ok(parsed) => expected.assert_eq(&parsed.to_string()),
        Err(error) => panic!("{}", error.render(query)),
    }
}

#[track_caller]
fn fails(query: &str, expected: Expect) {
    match parse(query) {
        Ok(parsed) => panic!("understood as {parsed}"),
        Err(error) => expected.assert_eq(&error.render(query).to_string()),
    }
}

const FINGERPRINT: &str = "tkf1:k1:Az09_-xAz09_-xAz09_-xAz09_-xAz09_-xAz09_-xA";

/// One of every form.
fn samples() -> Vec<String> {
    vec![
        String::new(),
        "provider:github status:401 src:10.0.0.0/8 since:24h".into(),
        "status:400..499 or status:>=500".into(),
        "not (provider:github or -class:\"a \\\"b\\\\\") and path:/admin*".into(),
        "container:* -pid:-5..7 port:..1024 uid:1000..".into(),
        "time:2026-11-01..2026-11-02 until:\"2026-11-22 10:00\"".into(),
        "deleted:true src:2001:DB8::/32 peer:/run/engine.sock server:::ffff:192.0.2.1".into(),
        format!("fingerprint:{FINGERPRINT} args:\"--a*\""),
        "path:\"ü (x)\"* path:a..b user:ü".into(),
    ]
}

#[test]
fn forms() {
    let written: Vec<String> = samples()
        .iter()
        .map(|query| parse(query).unwrap().to_string())
        .collect();
    expect![[r#"

        token.provider:github http.response.status_code:401 client.address:10.0.0.0/8 since:1d
        http.response.status_code:400..499 or http.response.status_code:>=500
        -(token.provider:github or -token.class:"a \"b\\") url.path:/admin*
        container.id:* -process.pid:-5..7 server.port:..1024 process.real_user.id:1000..
        time:2026-11-01..2026-11-02 until:2026-11-22T10:00Z
        process.executable.deleted:true client.address:2001:db8::/32 network.peer.address:/run/engine.sock server.address:192.0.2.1
        token.fingerprints:tkf1:k1:Az09_-xAz09_-xAz09_-xAz09_-xAz09_-xAz09_-xA process.command_args:"--a*"
        url.path:"ü (x)"* url.path:a..b process.real_user.name:"ü""#]]
    .assert_eq(&written.join("\n"));
}

#[test]
fn or_binds_looser_than_standing_together() {
    reads(
        "kind:usage provider:a or provider:b provider:c",
        expect!["kind:usage token.provider:a or token.provider:b token.provider:c"],
    );
    reads(
        "kind:usage (provider:a or provider:b) AND NOT provider:c",
        expect!["kind:usage (token.provider:a or token.provider:b) -token.provider:c"],
    );
    let query = parse("kind:a kind:b or kind:c").unwrap();
    assert!(
        matches!(&query, Query::Or(queries) if matches!(&queries[..], [Query::And(_), Query::Term(_)]))
    );
    assert_eq!(
        parse("((kind:a) (kind:b kind:c))"),
        parse("kind:a kind:b kind:c")
    );
    assert_eq!(parse("not not kind:a"), parse("--kind:a"));
}

#[test]
fn errors_show_the_place() {
    fails(
        "providr:github status:401",
        expect![[r#"
        there is no field `providr`
          providr:github status:401
          ^^^^^^^
        expected a field: did you mean `provider`?"#]],
    );
    fails(
        "provider:github stauts:401",
        expect![[r#"
        there is no field `stauts`
          provider:github stauts:401
                          ^^^^^^
        expected a field: did you mean `status`?"#]],
    );
    fails(
        "status:4o1",
        expect![[r#"
        not a number from -9223372036854775808 to 9223372036854775807
          status:4o1
                 ^^^
        expected a number, a range such as `400..499`, a comparison such as `>=500`, or `*`"#]],
    );
    fails(
        "status:499..400",
        expect![[r#"
        nothing is in this range
          status:499..400
                 ^^^^^^^^
        expected the lower or earlier end first"#]],
    );
    fails(
        "status:..",
        expect![[r#"
        the range has no end
          status:..
                 ^^
        expected a number, a range such as `400..499`, a comparison such as `>=500`, or `*`"#]],
    );
    fails(
        "status:1..2..3",
        expect![[r#"
        a range has two ends
          status:1..2..3
                     ^^
        expected a blank"#]],
    );
    fails(
        "status:40*",
        expect![[r#"
        `http.response.status_code` is a number, which has no prefix
          status:40*
                 ^^^
        expected a number, a range such as `400..499`, a comparison such as `>=500`, or `*`"#]],
    );
    fails(
        "provider:>=a",
        expect![[r#"
        `token.provider` is text, which has no order here
          provider:>=a
                   ^^
        expected a value (in quotes, if it begins like this)"#]],
    );
    fails(
        "provider:",
        expect![[r#"
        `token.provider` has no value
          provider:
                   ^
        expected a value, a prefix such as `/admin*`, or `*`"#]],
    );
    fails(
        "provider: github",
        expect![[r#"
        `token.provider` has no value
          provider: github
                   ^
        expected a value, a prefix such as `/admin*`, or `*`"#]],
    );
    fails(
        "src:10.0.0.0/33",
        expect![[r#"
        not a prefix length of this address
          src:10.0.0.0/33
                       ^^
        expected a number from 0 to 32"#]],
    );
    fails(
        "src:10.0.0/8",
        expect![[r#"
        not an address
          src:10.0.0/8
              ^^^^^^
        expected a block such as `10.0.0.0/8` or `2001:db8::/32`"#]],
    );
    fails(
        "since:yesterday",
        expect![[r#"
        not a time
          since:yesterday
                ^^^^^^^^^
        expected a time such as `24h`, `2026-11-01` or `2026-11-22T10:00Z` (UTC without an offset)"#]],
    );
    fails(
        "since:24h*",
        expect![[r#"
        a star has no sense here
          since:24h*
                   ^
        expected a blank"#]],
    );
    fails(
        "deleted:yes",
        expect![[r#"
        neither true nor false
          deleted:yes
                  ^^^
        expected `true`, `false` or `*`"#]],
    );
    fails(
        "fingerprint:ghp_0123456789",
        expect![[r#"
        not a fingerprint
          fingerprint:ghp_0123456789
                      ^^^^^^^^^^^^^^
        expected `tkf1:<key id>:<43 characters>`, a prefix such as `tkf1:k1:*`, or `*`"#]],
    );
    fails(
        "path:\"/a b",
        expect![[r#"
        the quote is not closed
          path:"/a b
               ^^^^^
        expected `"` at the value's end"#]],
    );
    fails(
        "path:\"/a\\b\"",
        expect![[r#"
        a backslash in quotes stands before a quote or a backslash
          path:"/a\b"
                  ^^
        expected `\"` or `\\`"#]],
    );
    fails(
        "path:\"/a\"b",
        expect![[r#"
        the value goes on behind its quotes
          path:"/a"b
                   ^
        expected a blank; a value with stars, blanks or quotes in it stands in quotes"#]],
    );
    fails(
        "path:/a*b",
        expect![[r#"
        a star stands for the end of a value alone
          path:/a*b
                  ^
        expected a blank; a value with stars, blanks or quotes in it stands in quotes"#]],
    );
    fails(
        "github",
        expect![[r#"
        `github` stands alone, and there is no search in all fields
          github
          ^^^^^^
        expected `field:github`, or a field and a colon in front of it"#]],
    );
    fails(
        "(kind:usage or kind:loss",
        expect![[r#"
        this parenthesis is not closed (the query ends at byte 24)
          (kind:usage or kind:loss
          ^
        expected `)`"#]],
    );
    fails(
        "kind:usage)",
        expect![[r#"
        this parenthesis closes none
          kind:usage)
                    ^
        expected another term or the end"#]],
    );
    fails(
        "kind:usage or",
        expect![[r#"
        the query ends where a term is due
          kind:usage or
                       ^
        expected `field:value`, `not`, `-` or `(`"#]],
    );
    fails(
        "kind:usage and or kind:loss",
        expect![[r#"
        `or` stands where a term is due
          kind:usage and or kind:loss
                         ^^
        expected `field:value`, `not`, `-` or `(`"#]],
    );
    fails(
        "()",
        expect![[r#"
        `)` stands where a term is due
          ()
           ^
        expected `field:value`, `not`, `-` or `(`"#]],
    );
    fails(
        "kind:usage\n\tpröv:x",
        expect![[r#"
        `pr` stands alone, and there is no search in all fields
          kind:usage  pröv:x
                      ^^
        expected `field:pr`, or a field and a colon in front of it"#]],
    );
    fails(
        "kind:usage ü:x",
        expect![[r#"
        a term cannot begin like this
          kind:usage ü:x
                     ^
        expected `field:value`, `not`, `-` or `(`"#]],
    );
}

#[test]
fn a_long_query_is_shown_around_the_place() {
    let query = format!(
        "{}bad:1 {}",
        "kind:usage ".repeat(20),
        "kind:usage ".repeat(20)
    );
    fails(
        &query,
        expect![[r#"
        there is no field `bad`
          …sage kind:usage kind:usage kind:usage kind:usage kind:usage bad:1 kind:usage kind:usage kind:usage kind:usage kind:usage ki
                                                                       ^^^
        expected a field of the event, such as `provider`, `status` or `http.request.method`"#]],
    );
}

#[test]
fn limits() {
    let deep = |depth: usize| format!("{}kind:a{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&deep(DEPTH_MAX)).is_ok());
    let error = parse(&deep(DEPTH_MAX + 1)).unwrap_err();
    assert_eq!(error.span, DEPTH_MAX..DEPTH_MAX + 1);
    assert!(parse(&"-".repeat(LENGTH_MAX)).is_err());
    assert!(parse(&"(".repeat(LENGTH_MAX)).is_err());

    let many = |terms: usize| vec!["kind:a"; terms].join(" ");
    assert!(parse(&many(TERMS_MAX)).is_ok());
    assert!(parse(&many(TERMS_MAX + 1)).is_err());

    let error = parse(&"ü".repeat(LENGTH_MAX)).unwrap_err();
    assert_eq!(error.span.start, LENGTH_MAX);
}

#[test]
fn every_prefix_of_a_query_is_read_or_refused_at_a_place() {
    for query in samples() {
        for cut in (0..=query.len()).filter(|cut| query.is_char_boundary(*cut)) {
            fuzz::fuzz(&query.as_bytes()[..cut]);
        }
    }
}

fn moment() -> impl Strategy<Value = moment::Moment> {
    use moment::{Moment, Precision};
    let at =
        (-20_000_i64..60_000, 0..4_u8, 0..1_000_000_000_i64).prop_map(|(count, form, nanos)| {
            let (unit, precision, rest) = match form {
                0 => (86_400_000_000_000, Precision::Day, 0),
                1 => (60_000_000_000, Precision::Minute, 0),
                2 => (1_000_000_000, Precision::Second, 0),
                _ => (1_000_000_000, Precision::Nanosecond, nanos),
            };
            let nanos = count * unit + rest;
            Moment::At { nanos, precision }
        });
    prop_oneof![(0..3_000_000_000_u64).prop_map(Moment::Ago), at]
}

fn term() -> impl Strategy<Value = Query> {
    let text = prop_oneof!["[a-z0-9/._-]{0,8}", "\\PC{0,8}", "[\"\\\\*()<>.@ -]{0,6}"];
    let field = 0..fields::all().len();
    (
        field,
        0..6_u8,
        text,
        any::<[i64; 2]>(),
        moment(),
        any::<([u8; 4], u8)>(),
    )
        .prop_map(|(field, form, text, [a, b], moment, (address, bits))| {
            let field = &fields::all()[field];
            let network = || {
                let address = std::net::Ipv4Addr::from(address).to_string();
                network::Network::parse(&address, &(bits % 33).to_string()).unwrap()
            };
            let fits = field.kind != Kind::Address
                || text.starts_with(['/', '@'])
                || (!text.contains('/') && text.parse::<std::net::IpAddr>().is_err());
            let compared = [
                Comparison::Less,
                Comparison::LessOrEqual,
                Comparison::Greater,
                Comparison::GreaterOrEqual,
            ][usize::from(form) % 4];
            let test = match (field.kind, form) {
                (_, 0) => Test::Exists,
                (Kind::Text | Kind::List, 1) => Test::Equals(Value::Text(text)),
                (Kind::Address, 1) if fits => Test::Equals(Value::Text(text)),
                (Kind::Address, 1..=3) => Test::Within(network()),
                (Kind::Text | Kind::Address | Kind::List | Kind::Fingerprint, _) => {
                    // An empty prefix without quotes is existence.
                    Test::Prefix(text)
                }
                (Kind::Integer, 1) => Test::Equals(Value::Integer(a)),
                (Kind::Integer, 2) => Test::Range(
                    Some(Value::Integer(a.min(b))),
                    Some(Value::Integer(a.max(b))),
                ),
                (Kind::Integer, 3) => Test::Range(None, Some(Value::Integer(a))),
                (Kind::Integer, _) => Test::Compare(compared, Value::Integer(a)),
                (Kind::Boolean, _) => Test::Equals(Value::Boolean(a % 2 == 0)),
                (Kind::Time, 1) => Test::Equals(Value::Moment(moment)),
                (Kind::Time, 2) => Test::Range(Some(Value::Moment(moment)), None),
                (Kind::Time, 3) => Test::Compare(compared, Value::Moment(moment)),
                (Kind::Time, 4) => {
                    return Query::Term(Term {
                        field: fields::time(),
                        test: Test::Since(moment),
                    });
                }
                (Kind::Time, _) => {
                    return Query::Term(Term {
                        field: fields::time(),
                        test: Test::Until(moment),
                    });
                }
            };
            Query::Term(Term { field, test })
        })
}

/// Queries as the parser gives them: nothing within its own kind.
fn query() -> impl Strategy<Value = Query> {
    let flat = |queries: Vec<Query>, and: bool| {
        let inner = queries.into_iter().flat_map(|query| match (query, and) {
            (Query::And(inner), true) | (Query::Or(inner), false) => inner,
            (other, _) => vec![other],
        });
        let inner = inner.collect();
        if and {
            Query::And(inner)
        } else {
            Query::Or(inner)
        }
    };
    term().prop_recursive(4, 40, 4, move |inner| {
        prop_oneof![
            inner.clone().prop_map(|query| Query::Not(Box::new(query))),
            (prop::collection::vec(inner, 2..4), any::<bool>())
                .prop_map(move |(queries, and)| flat(queries, and)),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_the_same(query in query()) {
        let written = query.to_string();
        prop_assert_eq!(parse(&written), Ok(query), "{}", written);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
        fuzz::fuzz(text.as_bytes());
    }

    #[test]
    fn any_sequence_of_pieces_is_read_or_refused(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "provider", "status", "time", "src", "since", "fingerprint", "deleted", "args", ":", "*", "..", "\"", "\\",
                "(", ")", "-", " ", "or", "not", "and", ">=", "<", "401", "10.0.0.0/8", "/x", "24h", "2026-11-01", "ü", ".",
            ]),
            0..12,
        )
    ) {
        fuzz::fuzz(pieces.concat().as_bytes());
    }
}
