//! The fuzz entry points over arbitrary and nearly valid input.

use crate::credential::fuzz::fuzz;
use proptest::prelude::*;

proptest! {
    #[test]
    fn arbitrary_bytes(data: Vec<u8>) {
        fuzz(&data);
    }

    #[test]
    fn nearly_valid(data in r"[ -~]{0,80}\n(Authorization|Cookie|X-Api-Key|Host|User-Agent|Forwarded): (Basic|Digest|AWS4-HMAC-SHA256|Bearer|OAuth) [ -~]{0,80}\n[a-z_]{0,20}=[ -~]{0,40}") {
        fuzz(data.as_bytes());
    }
}
