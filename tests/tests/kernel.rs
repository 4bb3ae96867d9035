//! The program in the kernel, by test run: every reason, and the same verdicts as on the host.

#[path = "kernel/accuracy.rs"]
mod accuracy;
#[path = "kernel/answers.rs"]
mod answers;
#[path = "kernel/captures.rs"]
mod captures;
#[path = "kernel/differential.rs"]
mod differential;
#[path = "kernel/lists.rs"]
mod lists;
#[path = "kernel/proof.rs"]
mod proof;
#[path = "kernel/reasons.rs"]
mod reasons;
#[path = "kernel/reassembly.rs"]
mod reassembly;
#[path = "kernel/samples.rs"]
mod samples;
#[path = "kernel/verifier.rs"]
mod verifier;
