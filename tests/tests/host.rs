//! Tests of the filter's logic on the host: parsing, deciding, metering; and of the bench's computations. They need
//! neither root nor a kernel.

#[path = "host/attack.rs"]
mod attack;
#[path = "host/bench.rs"]
mod bench;
#[path = "host/charge.rs"]
mod charge;
#[path = "host/crowd.rs"]
mod crowd;
#[path = "host/decide.rs"]
mod decide;
#[path = "host/meter.rs"]
mod meter;
#[path = "host/oracle.rs"]
mod oracle;
#[path = "host/ordinary.rs"]
mod ordinary;
#[path = "host/parse.rs"]
mod parse;
#[path = "host/sketch.rs"]
mod sketch;
#[path = "host/watch.rs"]
mod watch;
