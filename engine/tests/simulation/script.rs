//! The scripts that clients use.

use sha1_smol::Sha1;

/// Reads a key, and tells what the client sent along.
pub const READ: &[u8] = b"return {ARGV[1], redis.call('GET', KEYS[1])}";

/// Appends to a key.
pub const APPEND: &[u8] = b"return redis.call('APPEND', KEYS[1], ARGV[1])";

/// By what EVALSHA names a script.
pub fn digest(body: &[u8]) -> Vec<u8> {
    Sha1::from(body).digest().to_string().into_bytes()
}
