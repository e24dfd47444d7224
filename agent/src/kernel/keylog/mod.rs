//! Finding the key-log points of TLS code in files.
