use tokentrail_agent::kernel::{probes, decode::*, record::*};
fn main() {
    let scope = std::env::args().nth(1).unwrap().parse().unwrap();
    let rung = std::env::args().nth(2).map(|s| s.parse().unwrap());
    let options = probes::Options { rung, ring_bytes: 16<<20, copy_bytes: 16384, connections: 65536 };
    let (mut p, rung, why) = probes::start(&scope, &options).unwrap_or_else(|e| { println!("{e}"); std::process::exit(1) });
    println!("rung {rung} {:?}", why.map(|w| w.to_string()));
    let lib = "/usr/lib/x86_64-linux-gnu/libssl.so.3";
    println!("{:?}", p.attach_point(lib.as_ref(), 0x3a1c0).map(|x| x.0));
    let mut ring = p.ring().unwrap(); let counters = p.counters().unwrap();
    let mut d = Decoder::default();
    for _ in 0..600 {
        while let Some(item) = ring.next() { match d.decode(&item) {
            Decoded::Record(Record::Chunk(c)) => println!("chunk {} {:?} {:?} off {} skip {} len {} seq {} start {} end {} {:?}", c.caller.comm, c.endpoints, c.direction, c.offset, c.skipped, c.bytes.len(), c.sequence, c.from_start, c.end, String::from_utf8_lossy(&c.bytes[..c.bytes.len().min(24)])),
            Decoded::Record(Record::Secret(s)) => println!("secret {} {} {}", s.caller.comm, s.label, s.secret.len()),
            Decoded::Record(Record::Process(r)) => println!("{r:?}"),
            Decoded::Record(Record::Closed(r)) => println!("{r:?}"),
            Decoded::Cgroup{id,path} => println!("cgroup {id} {path}"),
            Decoded::Mapped{process,file} => println!("mapped {process:?} {} {}", file.device, file.inode),
            Decoded::Nothing => {} } }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    println!("undecoded {}", d.undecoded);
    let t = counters.read().unwrap();
    for (i, r) in t.0.iter().enumerate() { println!("{} {:?}", agent_common::abi::probe::NAMES[i], r); }
}
