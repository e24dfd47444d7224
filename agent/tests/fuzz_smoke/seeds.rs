//! Small inputs that look real, by target. Every secret in them is synthetic.

use agent_common::{abi, fingerprint::Keyring};
use tokentrail_agent::config::Config;

/// At least the general ones.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new(), vec![0; 64], (0..=255).collect()];
    seeds.extend(match target {
        "config" => config(),
        "credential" => credential(),
        "fingerprint" => fingerprint(),
        "flow" => flow(),
        "http2" => streams(),
        "http_detect" | "http_proxy" => beginnings(),
        "http_connection" => conversations(),
        "identity_placement" | "identity_texts" => identity(),
        "kernel_decode" => ring(),
        "keylog_elf" => vec![elf(), program()],
        "keylog_text" => texts(),
        "otlp" | "syslog" => events(),
        "pipeline" => pipeline(),
        "privilege_messages" => messages(),
        "quic" => quic(),
        "replay" => vec![include_bytes!("../replay/example.ndjson").to_vec()],
        "tls_hellos" => vec![client_hello()[4..].to_vec(), server_hello()[4..].to_vec()],
        "tls_messages" => in_parts(&[client_hello(), server_hello()].concat(), 63, 0x40),
        "tls_records" => in_parts(&handshake(), 63, 0x40),
        "tls_session" => session(),
        other => panic!("no seeds for {other}"),
    });
    seeds
}

/// The example of RFC 9001, as one datagram and its second half as frames.
fn quic() -> Vec<Vec<u8>> {
    let hex = include_str!("../../src/quic/tests/rfc9001-a2.hex");
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let packet: Vec<u8> = digits
        .chunks_exact(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let frames = [&[1, 0, 6, 0, 8][..], &client_hello()[..8], &[2, 1, 0, 0, 1]].concat();
    vec![[&[150][..], &packet].concat(), frames]
}

/// Encoded by the same code: `messages` reads both directions.
fn messages() -> Vec<Vec<u8>> {
    use tokentrail_agent::kernel::record::{FileId, PointId, ProcessKey};
    use tokentrail_agent::privilege::message::{Answer, Ask, Keys, Settings, Tell, encode};
    let file = FileId {
        device: 1,
        inode: 2,
    };
    let asks = [
        Ask::Ready {
            weaker: vec!["no Landlock".into()],
        },
        Ask::Look(ProcessKey { pid: 7, start: 9 }),
        Ask::DropPoint(PointId(3)),
        Ask::CgroupMade { path: "/a".into() },
        Ask::StillRuns {
            number: 300,
            pid: 7,
            file: Some(file),
        },
    ];
    let tells = [
        Tell::Answer {
            number: 1,
            answer: Answer::Counters(Ok(vec![1, 300, u64::MAX])),
        },
        Tell::Answer {
            number: 2,
            answer: Answer::UserName(Some("root".into())),
        },
        Tell::Reload(Settings {
            config: "[agent]\n".into(),
            keys: Some(Keys("version = 1\n".to_owned().into())),
        }),
        Tell::Stop,
    ];
    let encoded = asks.iter().map(encode).chain(tells.iter().map(encode));
    encoded.map(|bytes| bytes.unwrap().to_vec()).collect()
}

fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Those that the tests of receivers send, and texts that receivers answer or are named by.
fn events() -> Vec<Vec<u8>> {
    let mut seeds = bytes(&[
        "{\"partialSuccess\":{\"rejectedLogRecords\":\"3\",\"errorMessage\":\"too old\"}}",
        "\n\x0b\x08\x03\x12\x07too old",
        "Fri, 06 Nov 2026 08:49:37 GMT",
        "tls://[2001:db8::1]:6514",
        "unix:/dev/log",
    ]);
    let samples = include_str!("../receivers/samples.ndjson");
    seeds.extend(samples.lines().map(|line| line.as_bytes().to_vec()));
    seeds
}

fn config() -> Vec<Vec<u8>> {
    let mut seeds = bytes(&[
        "[agent]\nscope = [\"cgroup:/a\", \"pid:7\"]\nreport_seconds = 5\n",
        "[limits]\nconnections = 4194304\norder_wait_ms = 1\n[stdout]\nformat = \"ndjson\"\n",
        "[file]\npath = \"/var/log/t.ndjson\"\nkeep = 0\nsync = \"event\"\n[credential]\ncookies = [\"s\"]\n",
        "[capture]\nring_bytes = 65537\n",
    ]);
    seeds.push(Config::default().show().into_bytes());
    seeds
}

fn credential() -> Vec<Vec<u8>> {
    bytes(&[
        "/v1/models?api_key=0123456789abcdefghij&x=1\nhost: a.example\nauthorization: Bearer sk-synthetic0123456789\n\
         \nset-cookie: s=0123456789abcdef0123; Path=/\n\nclient_id=a&client_secret=0123456789abcdefgh\n",
        "/\nauthorization: Basic dXNlcjpzeW50aGV0aWMtcGFzc3dvcmQ=\nx-api-key: k0123456789012345\ncookie: s=1; t=2\n",
        "http://u:p0123456789@a/b\nauthorization: AWS4-HMAC-SHA256 Credential=AKIASYNTHETIC0000000/20261122/eu/s3/\
         aws4_request, SignedHeaders=host, Signature=00ff00ff\n",
        "/\nauthorization: Bearer eyJhbGciOiJIUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJhIiwic3ViIjoiYiIsImV4cCI6MTgwMDAwMDAwMH0.c2lnbmF0dXJl\n",
        "curl\0-H\0Authorization: Bearer abcdefgh0123456789\0--user\0a:b\0https://u:p@h/?token=abcdefgh12345678\0",
    ])
}

fn fingerprint() -> Vec<Vec<u8>> {
    let mut seeds = bytes(&[
        "tkf1:7f3kq2mz:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "version = 1\n\n[[keys]]\nkid = \"7f3kq2mz\"\nsecret = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\n\
         not_before = 2026-10-01T00:00:00Z\nnot_after = 2026-11-01T00:00:00Z\n",
    ]);
    seeds.push(
        Keyring::ephemeral()
            .unwrap()
            .serialize()
            .as_bytes()
            .to_vec(),
    );
    seeds
}

/// (kind, offset, length, covers), as the driver reads them.
fn flow() -> Vec<Vec<u8>> {
    let steps = |steps: &[(u8, u16, u8, u8)]| {
        steps
            .iter()
            .flat_map(|(kind, offset, len, covers)| {
                let [low, high] = offset.to_le_bytes();
                [*kind, low, high, *len, *covers]
            })
            .collect()
    };
    vec![
        steps(&[
            (8, 0, 100, 0),
            (8, 100, 100, 60),
            (3, 0, 0, 0),
            (1, 200, 0, 0),
        ]),
        steps(&[
            (8, 100, 50, 0),
            (8, 0, 100, 0),
            (8, 50, 90, 0),
            (4, 0, 0, 0),
            (0, 0, 0, 0),
        ]),
        steps(&[
            (9, 300, 200, 0),
            (0xf3, 0, 0, 0),
            (0xf3, 0, 0, 0),
            (2, 5, 0, 9),
            (9, 0, 200, 0),
        ]),
    ]
}

fn beginnings() -> Vec<Vec<u8>> {
    let mut seeds = bytes(&[
        "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET / HTTP/1.1\r\n\r\n",
        "PROXY TCP6 2001:db8::1 2001:db8::2 4124 443\r\n",
        "PROXY UNKNOWN\r\n",
        "SSH-2.0-x\r\n",
    ]);
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    second.extend([192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 4, 1, 0xbb]);
    seeds.push(second);
    seeds.push(handshake());
    seeds
}

/// Pieces of at most 61 bytes: control (direction, kind 4, length) and bytes.
fn conversation(first: u8, parts: &[(u8, &[u8])]) -> Vec<u8> {
    let mut data = vec![first];
    for (direction, bytes) in parts {
        for part in bytes.chunks(61) {
            // The length is 4 times the high nibble, and one more.
            let padded = part.len().saturating_sub(1).div_ceil(4);
            data.push((padded as u8) << 4 | 4 << 1 | direction);
            data.extend(part);
            data.resize(data.len() + padded * 4 + 1 - part.len(), b' ');
        }
    }
    data
}

/// A preface of each side, then frames as `http2` makes them: a request with an inserted field, its answer, bodies.
fn streams() -> Vec<Vec<u8>> {
    let request = b"\x82\x84\x40\x01a\x01b";
    let answer = b"\x88\x40\x01c\x01d";
    let step = |direction: u8, kind: u8, payload: &[u8]| {
        let size = (payload.len() as u8).div_ceil(2);
        let mut step = vec![direction | kind << 1 | size << 4];
        step.extend_from_slice(payload);
        step
    };
    let talk = [
        vec![0],
        step(0, 2, b""),
        step(0, 4, request),
        step(1, 4, answer),
        step(0, 5, b"\xbe\x82"),
        step(0, 7, b"\xbe\x82"),
        step(0, 6, b"body"),
        step(1, 0, b""),
        step(1, 6, b"more"),
        step(1, 4, b"\xbe\x88"),
        step(1, 1, b""),
    ]
    .concat();
    let small = [&[4], &talk[1..]].concat();
    let late = [&[3], &talk[1..]].concat();
    vec![talk, small, late]
}

fn conversations() -> Vec<Vec<u8>> {
    let get = b"GET /a HTTP/1.1\r\nHost: a.example\r\nAuthorization: Bearer abcdefgh\r\n\r\n";
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n";
    let post = b"POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello";
    let connect = b"CONNECT a:443 HTTP/1.1\r\n\r\n";
    let mut seeds = vec![
        conversation(0, &[(0, get), (1, ok), (0, get), (1, chunked)]),
        conversation(
            1,
            &[
                (1, get),
                (1, post),
                (0, b"HTTP/1.1 100 Continue\r\n\r\n"),
                (0, ok),
                (0, ok),
            ],
        ),
        conversation(
            4,
            &[
                (0, connect),
                (1, b"HTTP/1.1 200 OK\r\n\r\n"),
                (0, &client_hello()),
            ],
        ),
        conversation(2, &[(1, ok), (0, get), (1, ok)]),
    ];
    // Whole messages of the driver's own, with gaps and flushes.
    seeds.push((0..200).map(|at| (at * 37 % 251) as u8).collect());
    seeds
}

fn identity() -> Vec<Vec<u8>> {
    let id = "0123456789abcdef".repeat(4);
    bytes(&[
        &format!("/system.slice/docker-{id}.scope"),
        &format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod01234567_89ab_cdef_0123_456789abcdef.slice/\
             cri-containerd-{id}.scope"
        ),
        &format!("/kubepods/besteffort/pod01234567-89ab-cdef-0123-456789abcdef/{id}"),
        &format!(
            "/user.slice/user-1000.slice/user@1000.service/app.slice/libpod-{id}.scope/container"
        ),
        "/system.slice/system-getty.slice/getty@tty1.service",
        "7 (a) b) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0 18446744073709551615 0 0",
        "Name:\ta\nUid:\t0\t1\t2\t3\nGid:\t0\t1\t2\t3\nNSpid:\t7\t1\n",
        "net:[4026531840]",
        "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n30 23 0:5 / /a\\040b rw - proc proc rw\n",
        "root:x:0:0:root:/root:/bin/bash\na:x:1000:1000::/:/bin/sh\n",
    ])
}

/// Kind, half of the length, bytes: the driver puts the header before them.
fn ring() -> Vec<Vec<u8>> {
    let record = |kind: u16, len: usize| {
        let body = len - size_of::<abi::Header>();
        let mut data = vec![kind as u8, body.div_ceil(2) as u8];
        data.extend((0..body.next_multiple_of(2)).map(|at| if at % 8 == 0 { 1 } else { 0 }));
        data
    };
    let seeds = [
        record(abi::kind::SOCKET, size_of::<abi::Socket>() + 64),
        record(abi::kind::CLOSED, size_of::<abi::Closed>()),
        record(abi::kind::SECRET, size_of::<abi::Secret>()),
        record(abi::kind::EXEC, size_of::<abi::Exec>() + 32),
        record(abi::kind::FORK, size_of::<abi::Fork>()),
        record(abi::kind::EXIT, size_of::<abi::Exit>()),
        record(abi::kind::UNIX_PATH, size_of::<abi::UnixPath>()),
        record(abi::kind::CGROUP, size_of::<abi::Cgroup>()),
        record(abi::kind::MAPPED, size_of::<abi::Mapped>()),
    ];
    let all = seeds.concat();
    seeds.into_iter().chain([all]).collect()
}

/// A 64-bit little-endian executable of one segment and two sections, with a label that the finder looks for.
fn elf() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let word = |file: &mut Vec<u8>, number: u64| file.extend(number.to_le_bytes());
    file.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    word(&mut file, 0x200);
    word(&mut file, 64);
    word(&mut file, 0x400);
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 3, 0, 2, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for number in [0, 0, 0, 0x400, 0x400, 0x1000] {
        word(&mut file, number);
    }
    file.resize(0x100, 0);
    file.extend(b"CLIENT_RANDOM\0SERVER_HANDSHAKE_TRAFFIC_SECRET\0OpenSSL 3.0.13 30 Jan 2024\0");
    file.resize(0x200, 0);
    // lea rdx, [rip - 0x10b]; call +0; ret
    file.extend([
        0x48, 0x8d, 0x15, 0xf5, 0xfe, 0xff, 0xff, 0xe8, 0, 0, 0, 0, 0xc3,
    ]);
    file.resize(0x300, 0);
    file.extend(b"\0.text\0.shstrtab\0");
    file.resize(0x400 + 64, 0);
    for (name, kind, at, len) in [(1u32, 1u32, 0x200u64, 13u64), (7, 3, 0x300, 17)] {
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        for number in [6, at, at, len, 0, 1, 0] {
            word(&mut file, number);
        }
    }
    file
}

/// A real program, small on most systems.
fn program() -> Vec<u8> {
    let mut file = std::fs::read("/bin/true").unwrap_or_default();
    file.truncate(64 << 10);
    file
}

fn texts() -> Vec<Vec<u8>> {
    let mut seeds = bytes(&[
        "7f0000000000-7f0000001000 r-xp 00001000 08:01 1234 /usr/lib/x86_64-linux-gnu/libssl.so.3\n\
         7f0000001000-7f0000002000 rw-p 00000000 00:00 0 \n\
         7f0000002000-7f0000003000 r-xp 00000000 08:01 99 /a b (deleted)\n",
    ]);
    // `struct cache_file_new` of glibc: magic, counts, one entry, strings.
    let mut cache = b"glibc-ld.so.cache1.1".to_vec();
    cache.extend(1u32.to_le_bytes());
    cache.extend(40u32.to_le_bytes());
    cache.resize(48, 0);
    for number in [0x303u32, 72, 84, 0, 0, 0] {
        cache.extend(number.to_le_bytes());
    }
    cache.extend(b"libssl.so.3\0/lib/libssl.so.3\0");
    seeds.push(cache);
    seeds
}

fn client_hello() -> Vec<u8> {
    let mut extensions = vec![0, 0, 0, 14, 0, 12, 0, 0, 9];
    extensions.extend(b"a.example");
    extensions.extend([0, 16, 0, 14, 0, 12, 2, b'h', b'2', 8]);
    extensions.extend(b"http/1.1");
    extensions.extend([0, 43, 0, 3, 2, 3, 4]);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend([9; 32]);
    body.extend([0, 4, 0x13, 1, 0xc0, 0x2f, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    message(1, &body)
}

fn server_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([8; 32]);
    body.push(32);
    body.extend([9; 32]);
    body.extend([0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4]);
    message(2, &body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = (body.len() as u32).to_be_bytes();
    [&[kind, high, middle, low], body].concat()
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let [high, low] = (body.len() as u16).to_be_bytes();
    [&[kind, 3, 3, high, low], body].concat()
}

/// One direction after the other's hello; what is encrypted is noise.
fn handshake() -> Vec<u8> {
    [
        record(22, &client_hello()),
        record(20, &[1]),
        record(23, &[0x5a; 50]),
        record(23, &[0x5a; 19]),
    ]
    .concat()
}

/// Each part after a control byte: `kind` and its length.
fn in_parts(data: &[u8], most: usize, kind: u8) -> Vec<Vec<u8>> {
    let parts = data.chunks(most);
    vec![
        parts
            .flat_map(|part| [&[kind | part.len() as u8], part].concat())
            .collect(),
    ]
}

fn session() -> Vec<Vec<u8>> {
    let side = |data: &[u8], direction: u8| -> Vec<u8> {
        data.chunks(32)
            .flat_map(|part| {
                let control = (part.len() as u8 - 1) << 3 | 2 | direction;
                [&[control], part].concat()
            })
            .collect()
    };
    let server = [
        record(22, &server_hello()),
        record(23, &[0x77; 60]),
        record(21, &[2, 40]),
    ]
    .concat();
    // What follows ServerHello made the session loop for ever: an alert that is not of two bytes.
    let alert = [record(22, &server_hello()), record(21, &[2, 40, 0])].concat();
    // Control 40: a secret of five bytes and of kind 5.
    let secret = [40, 1, 2, 3, 4, 5, 6].to_vec();
    vec![
        [side(&handshake(), 0), side(&server, 1), secret.clone()].concat(),
        [secret, side(&handshake(), 1), side(&server, 0), vec![8, 0]].concat(),
        [side(&handshake(), 0), side(&alert, 1)].concat(),
    ]
}

/// Control (connection, kind), argument, bytes: as the driver reads them.
fn pipeline() -> Vec<Vec<u8>> {
    let request = |connection: u8, kind: u8, argument: u8| {
        let mut data = vec![(16 + kind) << 3 | connection, argument];
        data.resize(data.len() + usize::from(argument >> 1) + 1, connection);
        data
    };
    let response = |connection: u8, argument: u8| vec![8 << 3 | connection, argument];
    let raw = |connection: u8, direction: u8, data: &[u8]| -> Vec<u8> {
        data.chunks(128)
            .flat_map(|part| {
                let control = [
                    24 << 3 | connection,
                    (part.len() as u8 - 1) << 1 | direction,
                ];
                [&control, part].concat()
            })
            .collect()
    };
    let mut kinds = Vec::new();
    for kind in 0..8 {
        // Whole, cut in the middle, out of order, without its begin.
        for argument in [0, 0x82, 0x84, 0x86] {
            kinds.extend(request(kind % 6, kind, argument));
            kinds.extend(response(kind % 6, 1));
        }
        kinds.extend([(2 << 3) | (kind % 6), 0]);
    }
    let secrets: Vec<u8> = (0..8)
        .flat_map(|label| [3 << 3, label, 1, 2, 3, 4, 5][..3 + usize::from(label >> 1)].to_vec())
        .collect();
    let tls = [
        raw(0, 0, &handshake()),
        secrets.clone(),
        raw(
            0,
            1,
            &[record(22, &server_hello()), record(23, &[1; 80])].concat(),
        ),
        secrets,
        vec![8, 200, 2 << 3, 0],
    ]
    .concat();
    // Exchanges of one connection: read, skipped, asked for by chance; what waits is given up; a rest.
    let mut afforded = Vec::new();
    for afford in [4, 0, 0, 2, 2, 4, 6, 7, 4] {
        afforded.extend([31 << 3, afford]);
        afforded.extend(request(2, 0, 0));
        afforded.extend(response(2, 1));
    }
    let tunnel = [
        request(1, 5, 0),
        raw(1, 1, b"HTTP/1.1 200 OK\r\n\r\n"),
        raw(1, 0, &handshake()),
        vec![8, 255],
    ]
    .concat();
    let processes = [
        vec![4 << 3, 0x12],
        b"/bin/curl\0-H".to_vec(),
        vec![4 << 3 | 1, 1, 0, 4 << 3, 2, 0, 0],
        request(0, 0, 0),
        response(0, 1),
    ]
    .concat();
    // Positions near the end of their range, twice: their sum must not overflow.
    let far = [
        56 | 1,
        0x44,
        0,
        1,
        b'a',
        b'b',
        16 | 1,
        0,
        56 | 2,
        0x44,
        0,
        2,
        b'c',
        16 | 2,
        0,
    ]
    .to_vec();
    let many: Vec<u8> = (0..8)
        .flat_map(|connection| request(connection, 1, 0))
        .collect();
    vec![kinds, tls, afforded, tunnel, processes, many, far]
}
