//! What the microbenchmarks share.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// An ORU^R01 of about so many bytes.
pub(crate) fn message(bytes: usize) -> Bytes {
    let mut text = "MSH|^~\\&|LAB|ACME|EHR|CLINIC|20260115103000||ORU^R01^ORU_R01|MSG00001|P|2.5.1\r\
        PID|1||A-104233^^^ACME^MR||Nagy^Ilona^Maria||19800101|F|||Fo utca 1^^Szeged^^6720^HU||+3615550100\r\
        PV1|1|O||||||D-17^Kovacs^Peter\rOBR|1|O-1|F-1|CBC^Complete blood count^L|||20260115085500\r"
        .to_owned();
    let mut number = 0;
    while text.len() < bytes {
        number += 1;
        text += &format!("OBX|{number}|NM|WBC^Leukocytes^L||6.{number}|10*9/L|4.0-10.0|N|||F|||20260115085500\r");
    }
    Bytes::from(text)
}

/// The best of several rounds: what the code costs when nothing else runs.
// The journal is not measured by its best round.
#[allow(dead_code)]
pub(crate) fn microseconds(mut work: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        for _ in 0..200 {
            work();
        }
        best = best.min(start.elapsed());
    }
    best.as_secs_f64() * 1e6 / 200.0
}
