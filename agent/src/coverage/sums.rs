//! The two sums that must hold when the agent stops.

/// What came in against what went out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Calls within the scope that the probes saw moving bytes or secrets.
    pub calls_seen: u64,
    /// Of these, told by a ring record, or by the position in the next one.
    pub ring_records: u64,
    /// Of these, lost.
    pub call_losses: u64,
    /// Credentials found in exchanges.
    pub credentials_parsed: u64,
    /// Of these, in an event that was handed to the outputs.
    pub events: u64,
    /// Of these, lost.
    pub event_losses: u64,
}

impl Sums {
    /// # Errors
    /// Says which sum does not hold, with its numbers.
    pub fn hold(&self) -> Result<(), String> {
        let lines = [
            check(
                ("calls seen", self.calls_seen),
                ("ring records", self.ring_records),
                ("losses", self.call_losses),
            ),
            check(
                ("credentials parsed", self.credentials_parsed),
                ("events", self.events),
                ("losses", self.event_losses),
            ),
        ];
        let wrong: Vec<String> = lines.into_iter().flatten().collect();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("; "))
        }
    }
}

type Named = (&'static str, u64);

fn check(whole: Named, out: Named, lost: Named) -> Option<String> {
    // Wide enough for any counters.
    let sum = u128::from(out.1) + u128::from(lost.1);
    (u128::from(whole.1) != sum).then(|| {
        format!(
            "{} {} is not {} {} + {} {} = {sum}",
            whole.0, whole.1, out.0, out.1, lost.0, lost.1
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_or_say_why() {
        let sums = Sums {
            calls_seen: 10,
            ring_records: 7,
            call_losses: 3,
            credentials_parsed: 5,
            events: 5,
            event_losses: 0,
        };
        assert_eq!(sums.hold(), Ok(()));
        assert_eq!(Sums::default().hold(), Ok(()));
        let wrong = Sums {
            call_losses: 2,
            ..sums
        };
        assert_eq!(
            wrong.hold(),
            Err("calls seen 10 is not ring records 7 + losses 2 = 9".to_owned())
        );
        let both = Sums {
            events: u64::MAX,
            event_losses: u64::MAX,
            ..wrong
        };
        assert_eq!(both.hold().unwrap_err().matches(" is not ").count(), 2);
    }
}
