//! `env.json`: what a run takes place on.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use vit_run::Environment;

use super::set_up::SetUp;
use crate::device;

/// What a reader wants to know who sees another speed, or other last bits. Nothing that tells whose machine it is.
pub(super) fn of_this_machine(set_up: &SetUp) -> Environment {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let facts = [
        ("vit", json!(env!("CARGO_PKG_VERSION"))),
        ("commit", json!(option_env!("VIT_COMMIT"))),
        ("begun", json!(utc(begun))),
        ("system", json!(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH))),
        ("processor", json!(processor())),
        ("instructions", json!(vit_ops::instruction_set())),
        ("device", json!(device::name(&set_up.device))),
        ("cores", json!(cores)),
        ("threads", json!(set_up.threads)),
        ("dataset", json!(set_up.found.dataset.name())),
        ("dataset_sha256", json!(set_up.found.digest().to_string())),
    ];
    let known = facts.into_iter().filter(|(_, value)| !value.is_null());
    Environment(known.map(|(name, value)| (name.to_owned(), value)).collect())
}

/// The processor's name, where Linux tells it.
fn processor() -> Option<String> {
    let known = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = known.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Seconds since 1970 as a date and time, by the algorithm `civil_from_days` of
/// <https://howardhinnant.github.io/date_algorithms.html>.
fn utc(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of year 0, so that a leap day is a year's last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_735_689_599), "2024-12-31 23:59:59 UTC");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }
}
