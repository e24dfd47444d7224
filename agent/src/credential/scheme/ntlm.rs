//! The user name in an NTLM AUTHENTICATE message (MS-NLMP section 2.2.1.3).
//!
//! Invariant: every offset is checked against the message.

const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";
const AUTHENTICATE: u32 = 3;
const NEGOTIATE_UNICODE: u32 = 1;
/// Characters of a name that are kept.
const NAME_MAX: usize = 64;

/// `DOMAIN\user`, or `user` without a domain; `None` for anything else (Kerberos, other NTLM messages).
pub(super) fn user(message: &[u8]) -> Option<String> {
    if !message.starts_with(SIGNATURE) || u32_at(message, 8)? != AUTHENTICATE {
        return None;
    }
    let unicode = u32_at(message, 60)? & NEGOTIATE_UNICODE != 0;
    let domain = field(message, 28, unicode)?;
    let user = field(message, 36, unicode).filter(|user| !user.is_empty())?;
    Some(if domain.is_empty() {
        user
    } else {
        format!("{domain}\\{user}")
    })
}

fn u32_at(message: &[u8], place: usize) -> Option<u32> {
    let bytes = message.get(place..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// A field's length (16 bits), allocated length (16 bits) and offset (32 bits) stand at `place`.
fn field(message: &[u8], place: usize, unicode: bool) -> Option<String> {
    let len = usize::try_from(u32_at(message, place)? & 0xffff).ok()?;
    let start = usize::try_from(u32_at(message, place + 4)?).ok()?;
    let bytes = message.get(start..start.checked_add(len)?)?;
    let text: String = if unicode {
        let units = bytes
            .as_chunks()
            .0
            .iter()
            .map(|&pair| u16::from_le_bytes(pair));
        char::decode_utf16(units)
            .map(|unit| unit.unwrap_or('\u{fffd}'))
            .take(NAME_MAX)
            .collect()
    } else {
        bytes
            .iter()
            .map(|&byte| char::from(byte))
            .take(NAME_MAX)
            .collect()
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(unicode: bool) -> Vec<u8> {
        let text = |text: &str| -> Vec<u8> {
            if unicode {
                text.encode_utf16().flat_map(u16::to_le_bytes).collect()
            } else {
                text.into()
            }
        };
        let (domain, user) = (text("CORP"), text("alice"));
        let mut bytes = [&SIGNATURE[..], &AUTHENTICATE.to_le_bytes(), &[0; 16]].concat();
        for (field, start) in [
            (&domain, 64),
            (&user, 64 + domain.len()),
            (&Vec::new(), 0),
            (&Vec::new(), 0),
        ] {
            let len = (field.len() as u16).to_le_bytes();
            bytes.extend([&len[..], &len, &(start as u32).to_le_bytes()].concat());
        }
        bytes.extend(u32::from(unicode).to_le_bytes());
        bytes.extend([domain, user].concat());
        bytes
    }

    #[test]
    fn names_in_both_encodings_and_nothing_of_a_cut_message() {
        for unicode in [true, false] {
            let message = message(unicode);
            assert_eq!(user(&message).as_deref(), Some("CORP\\alice"));
            for cut in 0..message.len() {
                assert_eq!(user(&message[..cut]), None, "cut at {cut}");
            }
            let mut challenge = message.clone();
            challenge[8] = 2;
            assert_eq!(user(&challenge), None);
            let mut far = message;
            far[40..44].fill(0xff);
            assert_eq!(user(&far), None);
        }
    }
}
