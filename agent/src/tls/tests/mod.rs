mod broken;
mod fuzzed;
mod peers;
mod pool;
mod real;
mod replay;
mod skipped;
