// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Seconds since 1970 to a date of the Gregorian calendar and back, without leap seconds.

pub(crate) const DAY_SECS: i64 = 86_400;
/// Last second of the year 9999: what four digits can show.
pub(crate) const LAST: i64 = 253_402_300_799;

/// A date and time, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Date {
    pub(crate) year: i64,
    /// 1 to 12.
    pub(crate) month: i64,
    /// 1 to 31.
    pub(crate) day: i64,
    pub(crate) hour: i64,
    pub(crate) minute: i64,
    pub(crate) second: i64,
}

impl Date {
    /// The date of `secs`, which is cut to 1970 to 9999.
    pub(crate) fn from_secs(secs: i64) -> Self {
        let secs = secs.clamp(0, LAST);
        let mut days = secs / DAY_SECS;
        // A year has at least 365 days, so this is the year or one soon after it.
        let mut year = 1970 + days / 366;
        while days_before(year + 1) <= days {
            year += 1;
        }
        days -= days_before(year);
        let mut month = 1;
        while days >= month_days(year, month) {
            days -= month_days(year, month);
            month += 1;
        }
        let rest = secs % DAY_SECS;
        Self {
            year,
            month,
            day: days + 1,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    /// The seconds of a date, if it is one.
    pub(crate) fn to_secs(self) -> Option<i64> {
        let valid = (1970..=9999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=month_days(self.year, self.month)).contains(&self.day)
            && (0..24).contains(&self.hour)
            && (0..60).contains(&self.minute)
            && (0..60).contains(&self.second);
        valid.then(|| {
            let months: i64 = (1..self.month)
                .map(|month| month_days(self.year, month))
                .sum();
            let days = days_before(self.year) + months + self.day - 1;
            days * DAY_SECS + self.hour * 3600 + self.minute * 60 + self.second
        })
    }

    /// 1 for Sunday to 7.
    pub(crate) fn weekday(self) -> i64 {
        // 1970-01-01 was a Thursday.
        self.to_secs()
            .map_or(1, |secs| (secs / DAY_SECS + 4) % 7 + 1)
    }
}

/// Days from 1970-01-01 to the first day of `year`.
fn days_before(year: i64) -> i64 {
    let leaps = |y: i64| y / 4 - y / 100 + y / 400;
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
}

fn month_days(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: i64, month: i64, day: i64, hour: i64, minute: i64, second: i64) -> Date {
        Date {
            year,
            month,
            day,
            hour,
            minute,
            second,
        }
    }

    #[test]
    fn known_instants_have_their_dates() {
        for (secs, expected, weekday) in [
            (0, date(1970, 1, 1, 0, 0, 0), 5),
            (951_782_399, date(2000, 2, 28, 23, 59, 59), 2),
            (951_782_400, date(2000, 2, 29, 0, 0, 0), 3),
            (1_000_000_000, date(2001, 9, 9, 1, 46, 40), 1),
            (4_107_542_400, date(2100, 3, 1, 0, 0, 0), 2),
            (LAST, date(9999, 12, 31, 23, 59, 59), 6),
        ] {
            assert_eq!(Date::from_secs(secs), expected);
            assert_eq!(expected.to_secs(), Some(secs));
            assert_eq!(expected.weekday(), weekday, "{expected:?}");
        }
    }

    #[test]
    fn every_day_follows_the_one_before_and_comes_back() {
        let mut last = Date::from_secs(0);
        // A cycle of the calendar is 400 years.
        for day in 1..=days_before(2400) {
            let next = Date::from_secs(day * DAY_SECS);
            assert_eq!(next.to_secs(), Some(day * DAY_SECS));
            assert_eq!(next.weekday(), last.weekday() % 7 + 1);
            assert!((next.year, next.month, next.day) > (last.year, last.month, last.day));
            last = next;
        }
    }

    #[test]
    fn what_is_no_date_has_no_seconds_and_far_instants_are_cut() {
        assert_eq!(date(2023, 2, 29, 0, 0, 0).to_secs(), None);
        assert_eq!(date(2023, 13, 1, 0, 0, 0).to_secs(), None);
        assert_eq!(date(2023, 0, 1, 0, 0, 0).to_secs(), None);
        assert_eq!(date(2023, 1, 1, 24, 0, 0).to_secs(), None);
        assert_eq!(Date::from_secs(i64::MAX).year, 9999);
        assert_eq!(Date::from_secs(i64::MIN).year, 1970);
    }
}
