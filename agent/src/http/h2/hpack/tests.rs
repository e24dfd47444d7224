//! The RFC's examples, late joins, hostile blocks, and the package hpack as oracle.

use super::*;

const MOST: Most = Most {
    fields: 64,
    bytes: 4096,
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn shown(fields: &Fields) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut lines: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("{}={}", text(name), text(value)))
        .collect();
    if fields.unresolved > 0 {
        lines.push(format!("{} unresolved", fields.unresolved));
    }
    lines.join(" ")
}

#[track_caller]
fn decodes(decoder: &mut Decoder, block: &str, expected: &str) {
    let fields = decoder.decode(&hex(block), MOST).unwrap();
    assert_eq!(shown(&fields), expected);
}

/// Everything that hpack's encoder makes, and what its decoder makes of blocks that were changed.
#[test]
fn as_the_oracle_says() {
    let Some(fixtures) = std::env::var_os("TOKENTRAIL_FIXTURES") else {
        println!("skipped: TOKENTRAIL_FIXTURES is not set (cargo xtask setup --test)");
        return;
    };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs");
    let mut compared = 0;
    for seed in ["1", "2", "3"] {
        let said =
            std::process::Command::new(std::path::Path::new(&fixtures).join("venv/bin/python"))
                .arg(format!("{folder}/hpack_oracle.py"))
                .arg(seed)
                .output()
                .unwrap();
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{error}");
        let (mut connection, mut decoder) = (None, Decoder::default());
        for line in String::from_utf8(said.stdout).unwrap().lines() {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            if connection.replace(case["connection"].clone()) != Some(case["connection"].clone()) {
                decoder = Decoder::default();
            }
            let most = Most {
                fields: 1 << 20,
                bytes: 1 << 24,
            };
            let found = decoder.decode(&hex(case["block"].as_str().unwrap()), most);
            // What the oracle refuses is the last of its connection, and we may be more patient.
            let Some(expected) = case["fields"].as_array() else {
                continue;
            };
            let fields = found.unwrap_or_else(|_| panic!("refused: {line}"));
            let text = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let found: Vec<[String; 2]> = fields
                .iter()
                .map(|(name, value)| [text(name), text(value)])
                .collect();
            assert_eq!(
                serde_json::json!(found),
                serde_json::json!(expected),
                "{line}"
            );
            assert_eq!((fields.unresolved, fields.left_out), (0, 0), "{line}");
            compared += 1;
        }
    }
    assert!(compared > 5_000, "{compared} blocks were compared");
}

/// Appendix C.4: requests with Huffman coding.
const REQUESTS: [(&str, &str); 3] = [
    (
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        ":method=GET :scheme=http :path=/ :authority=www.example.com",
    ),
    (
        "8286 84be 5886 a8eb 1064 9cbf",
        ":method=GET :scheme=http :path=/ :authority=www.example.com cache-control=no-cache",
    ),
    (
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ":method=GET :scheme=https :path=/index.html :authority=www.example.com custom-key=custom-value",
    ),
];

#[test]
fn as_in_the_rfc() {
    let mut decoder = Decoder::default();
    for (block, expected) in REQUESTS {
        decodes(&mut decoder, block, expected);
    }
    // Appendix C.3.1 and C.2.3: without Huffman coding, never indexed.
    let mut decoder = Decoder::default();
    decodes(
        &mut decoder,
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        REQUESTS[0].1,
    );
    decodes(
        &mut decoder,
        "1008 7061 7373 776f 7264 0673 6563 7265 74",
        "password=secret",
    );
}

#[test]
fn joined_late() {
    let mut decoder = Decoder::default();
    decoder.forget();
    // `:authority` was inserted before.
    decodes(
        &mut decoder,
        REQUESTS[1].0,
        ":method=GET :scheme=http :path=/ cache-control=no-cache 1 unresolved",
    );
    // What came since is newest, and older ones move on.
    decodes(&mut decoder, "be bf", "cache-control=no-cache 1 unresolved");
    // A name that is not known, with a value that is: inserted, so that later indices fit.
    decodes(&mut decoder, "7f01 0131", "1 unresolved");
    decodes(&mut decoder, "bf be", "cache-control=no-cache 1 unresolved");
}

#[test]
fn limits_do_not_touch_the_table() {
    let mut decoder = Decoder::default();
    let most = Most {
        fields: 1,
        bytes: 4096,
    };
    let fields = decoder.decode(&hex(REQUESTS[0].0), most).unwrap();
    assert_eq!(
        (shown(&fields).as_str(), fields.left_out),
        (":method=GET", 3)
    );
    decodes(&mut decoder, REQUESTS[1].0, REQUESTS[1].1);
}

#[test]
fn no_blocks() {
    for block in [
        "80",
        "be",
        "40",
        "4003",
        "40 03 6162",
        "ff ffffffff ff",
        "40 0161",
        "40 7fffffffffff7f",
        "40 81 00 01 61",
    ] {
        assert!(
            Decoder::default().decode(&hex(block), MOST).is_err(),
            "{block}"
        );
    }
}
