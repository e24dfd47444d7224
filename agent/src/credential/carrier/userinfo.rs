//! Credentials in the userinfo of an absolute-form target (RFC 3986 section 3.2.1), as a proxy gets it.
//!
//! Invariant: read like Basic, because that is what a client makes of it.

use super::super::find::{Carrier, Finds};
use super::super::redact::Target;
use super::super::{basic, text};

pub(super) fn collect(target: &Target<'_>, finds: &mut Finds<'_>) {
    let Some(userinfo) = target.userinfo.filter(|userinfo| !userinfo.is_empty()) else {
        return;
    };
    let colon = userinfo
        .iter()
        .position(|&byte| byte == b':')
        .unwrap_or(userinfo.len());
    let user = text::percent(&userinfo[..colon]);
    let password = text::percent(userinfo.get(colon + 1..).unwrap_or_default());
    // Also as it stands, encoded; the user name is hidden if it is no name.
    finds.hide(userinfo.get(colon + 1..).unwrap_or_default());
    basic::pair_found(Carrier::Userinfo, "Basic", &user, &password, finds);
}
