mod peers;
mod real;
mod replay;
