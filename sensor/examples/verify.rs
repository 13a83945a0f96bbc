//! Loads every program and says what the verifier counted.
use aya::{Ebpf, EbpfLoader, VerifierLogLevel, programs::Program};
fn main() {
    let data = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let mut e: Ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(&data)
        .unwrap();
    for (name, p) in e.programs_mut() {
        let r = match p {
            Program::Xdp(p) => p.load(),
            Program::SchedClassifier(p) => p.load(),
            _ => continue,
        };
        match r {
            Ok(()) => {
                let n = match p {
                    Program::Xdp(p) => p.info(),
                    Program::SchedClassifier(p) => p.info(),
                    _ => unreachable!(),
                }
                .unwrap();
                println!("{name}: ok {:?} insns", n.verified_instruction_count())
            }
            Err(e) => {
                let t = format!("{e:?}").replace("\\n", "\n");
                let l: Vec<_> = t.lines().collect();
                println!("{name}: {}", l[l.len().saturating_sub(45)..].join("\n"));
            }
        }
    }
}
