//! Tables of times, and clocks that are set.

use super::*;

fn read(text: &str) -> (Option<Schedule>, Vec<String>) {
    let file = crate::diagnostic::SourceFile::new(std::path::Path::new("a.toml"), text.to_owned());
    let read = crate::config::collect(&file, std::path::Path::new("."), || {
        let table = toml::de::DeTable::parse(&file.text).unwrap().into_inner();
        Schedule::take(&mut Table::new(table, 0..0, "[source]"), None)
    });
    (read.value, read.diagnostics.into_iter().map(|found| found.message).collect())
}

#[track_caller]
fn schedule(text: &str) -> Schedule {
    let (schedule, mistakes) = read(text);
    assert!(mistakes.is_empty(), "{text}: {mistakes:?}");
    schedule.unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The times after a moment, as they are shown in the schedule's own zone: `28 06:30`.
fn times(text: &str, from: &str, count: usize) -> Vec<String> {
    let schedule = schedule(text);
    let mut time = at(from);
    (0..count)
        .map_while(|_| {
            time = schedule.after(time, Timestamp::UNIX_EPOCH)?;
            Some(
                time.to_zoned_datetime(schedule.zone.clone()).strftime("%d %H:%M%:z").to_string().replace(":00+", "h+"),
            )
        })
        .collect()
}

#[test]
fn times_follow_one_another() {
    let vienna = "time_zone = 'Europe/Vienna'";
    for (text, from, expected) in [
        ("every = '30s'", "2026-11-26T08:59:59.5Z", ["26 09h+00:00", "26 09h+00:00", "26 09:01+00:00"]),
        ("every = '12h'", "2026-11-26T00:00:00Z", ["26 12h+00:00", "27 00h+00:00", "27 12h+00:00"]),
        ("cron = '*/5 * * * *'", "2026-11-26T08:55:00Z", ["26 09h+00:00", "26 09:05+00:00", "26 09:10+00:00"]),
        ("cron = '30 6 * * mon-fri'", "2026-11-26T08:00:00Z", ["27 06:30+00:00", "30 06:30+00:00", "01 06:30+00:00"]),
        ("cron = '15,45 30 6 * * *'", "2026-11-26T08:00:00Z", ["27 06:30+00:00", "27 06:30+00:00", "28 06:30+00:00"]),
        ("cron = '0 9 L * *'", "2026-11-26T08:00:00Z", ["30 09h+00:00", "31 09h+00:00", "31 09h+00:00"]),
        // Only within hours: they close at their end, not after it.
        (
            "every = '1h'\nbetween = ['07:00-09:00']",
            "2026-11-26T06:30:00Z",
            ["26 07h+00:00", "26 08h+00:00", "27 07h+00:00"],
        ),
        (
            "every = '1h'\nbetween = ['fri 22:00-24:00', 'sun 22:30-00:30']",
            "2026-11-27T21:30:00Z",
            ["27 22h+00:00", "27 23h+00:00", "29 23h+00:00"],
        ),
        (
            "every = '20m'\nbetween = ['sun 23:30-00:30']",
            "2026-11-26T08:00:00Z",
            ["29 23:40+00:00", "30 00h+00:00", "30 00:20+00:00"],
        ),
        (
            "cron = '0 */6 * * *'\nbetween = ['sat-mon 06:00-12:01']",
            "2026-11-26T08:00:00Z",
            ["28 06h+00:00", "28 12h+00:00", "29 06h+00:00"],
        ),
    ] {
        assert_eq!(times(text, from, 3), expected, "{text}");
    }
    // In winter and in summer: hours are those of the wall.
    let morning = format!("cron = '30 6 * * *'\n{vienna}");
    assert_eq!(times(&morning, "2026-03-28T00:00:00Z", 2), ["28 06:30+01:00", "29 06:30+02:00"]);
    let open = format!("every = '1h'\nbetween = ['08:00-09:00']\n{vienna}");
    assert_eq!(times(&open, "2026-03-28T00:00:00Z", 2), ["28 08h+01:00", "29 08h+02:00"]);
}

/// 29 March 2026: 02:00 to 03:00 is left out. 25 October: 02:00 to 03:00 comes twice.
#[test]
fn a_clock_that_changes_leaves_no_time_out_and_takes_none_twice() {
    for (cron, from, expected) in [
        ("30 2 * * *", "2026-03-28T12:00:00Z", ["29 03h+02:00", "30 02:30+02:00", "31 02:30+02:00"]),
        ("30 2 * * *", "2026-10-24T12:00:00Z", ["25 02:30+02:00", "26 02:30+01:00", "27 02:30+01:00"]),
        ("0 2,14 * * *", "2026-03-28T14:00:00Z", ["29 03h+02:00", "29 14h+02:00", "30 02h+02:00"]),
        ("0 2,14 * * *", "2026-10-24T14:00:00Z", ["25 02h+02:00", "25 14h+01:00", "26 02h+01:00"]),
        ("0 0 * * *", "2026-03-28T12:00:00Z", ["29 00h+01:00", "30 00h+02:00", "31 00h+02:00"]),
        // An interval goes by the hours as they are.
        ("*/30 * * * *", "2026-03-29T00:15:00Z", ["29 01:30+01:00", "29 03h+02:00", "29 03:30+02:00"]),
        ("0 * * * *", "2026-10-24T23:30:00Z", ["25 02h+02:00", "25 02h+01:00", "25 03h+01:00"]),
    ] {
        let text = format!("cron = '{cron}'\ntime_zone = 'Europe/Vienna'");
        assert_eq!(times(&text, from, 3), expected, "{cron}");
    }
    // Another zone, where it is half an hour.
    let text = "cron = '15 2 * * *'\ntime_zone = 'Australia/Lord_Howe'";
    assert_eq!(times(text, "2026-10-03T00:00:00Z", 2), ["04 02:30+11:00", "05 02:15+11:00"]);
}

#[test]
fn the_last_time_is_found_backwards() {
    for (text, since, expected) in [
        ("every = '1h'", "2020-01-01T00:00:00Z", Some("2026-11-26T08:00:00Z")),
        ("cron = '0 6 1 * *'", "2020-01-01T00:00:00Z", Some("2026-11-01T06:00:00Z")),
        ("cron = '0 6 1 * *'", "2026-11-02T00:00:00Z", None),
        ("cron = '*/5 * * * * *'", "2026-11-26T08:29:59Z", None),
        ("cron = '* * * * * *'", "2020-01-01T00:00:00Z", Some("2026-11-26T08:29:59Z")),
        ("every = '1h'\nbetween = ['wed 10:00-12:00']", "2020-01-01T00:00:00Z", Some("2026-11-25T11:00:00Z")),
    ] {
        let found = schedule(text).last_before(at("2026-11-26T08:30:00Z"), at(since));
        assert_eq!(found, expected.map(at), "{text}");
    }
}

/// What comes when the clock shows these times one after the other: for each the tick, or a wait.
fn course(text: &str, start: &str, looks: &[&str]) -> Vec<String> {
    let mut course = Course::new(schedule(text), at(start), Timestamp::UNIX_EPOCH);
    let shown = |look: &&str| match course.look(at(look)) {
        Ok(tick) => format!("{}{}", tick.at.strftime("%H:%M:%S"), if tick.again { " again" } else { "" }),
        Err(wait) => format!("wait {}", wait.as_millis()),
    };
    looks.iter().map(shown).collect()
}

#[test]
fn what_went_by_unnoticed_is_made_up_for_by_one() {
    let looks = [
        "2026-11-26T08:00:10Z",
        "2026-11-26T08:00:29.75Z",
        "2026-11-26T08:00:30.1Z",
        "2026-11-26T20:00:10Z",
        "2026-11-26T20:00:11Z",
        "2026-11-26T20:00:31Z",
    ];
    let expected = ["wait 5000", "wait 250", "08:00:30", "08:01:00", "wait 5000", "20:00:30"];
    for text in ["every = '30s'", "cron = '*/30 * * * * *'"] {
        assert_eq!(course(text, "2026-11-26T08:00:05Z", &looks), expected, "{text}");
    }
}

#[test]
fn a_clock_that_was_put_back_silences_nobody() {
    // By an hour, right after 08:00:00 came.
    let looks = ["2026-11-26T08:00:00Z", "2026-11-26T07:00:01Z", "2026-11-26T07:00:30Z", "2026-11-26T08:00:01Z"];
    for text in ["every = '30s'", "cron = '*/30 * * * * *'"] {
        let came = course(text, "2026-11-26T07:59:59Z", &looks);
        assert_eq!(came, ["08:00:00", "wait 5000", "07:00:30 again", "07:01:00 again"], "{text}");
    }
    // By a second, as clocks are kept right: nothing comes twice.
    let looks = ["2026-11-26T08:00:00Z", "2026-11-26T07:59:59Z", "2026-11-26T08:00:00.5Z", "2026-11-26T08:00:30Z"];
    assert_eq!(
        course("every = '30s'", "2026-11-26T07:59:59Z", &looks),
        ["08:00:00", "wait 5000", "wait 5000", "08:00:30"]
    );
}

#[test]
fn a_time_of_day_does_not_come_again_for_a_clock_that_was_put_back() {
    let text = "cron = '0 3 * * *'";
    let looks = ["2026-11-26T03:00:00Z", "2026-11-26T02:00:01Z", "2026-11-26T03:00:00Z", "2026-11-27T03:00:00Z"];
    assert_eq!(course(text, "2026-11-26T02:59:59Z", &looks), ["03:00:00", "wait 5000", "wait 5000", "03:00:00"]);
    // Unless it was wrong altogether.
    let looks = ["2030-01-01T03:00:00Z", "2026-11-26T02:59:58Z", "2026-11-26T03:00:00Z"];
    assert_eq!(course(text, "2030-01-01T02:59:59Z", &looks), ["03:00:00", "wait 2000", "03:00:00 again"]);
}

#[test]
fn mistakes_are_told() {
    for (text, expected) in [
        ("", "[source] says nothing of when"),
        ("every = '1s'\ncron = '* * * * *'", "both `every` and `cron`"),
        ("every = '99ms'", "`every` is less than 100ms"),
        ("every = '1h'\ntime_zone = 'Europe/Vienna'", "`time_zone` without `cron` or `between`"),
        ("cron = '* * * * *'\ntime_zone = 'Europe/Wien'", "no time zone is called `Europe/Wien`"),
        ("cron = '* * *'", "`* * *` is not a cron expression: it has 3 fields"),
        ("every = '1h'\nbetween = []", "`between` is empty"),
        ("every = '1h'\nbetween = ['7-18']", "`7-18` is not a part of the day: `7` is no time of day"),
        (
            "every = '1h'\nbetween = ['07:00-07:00']",
            "`07:00-07:00` is not a part of the day: it ends when it begins; a whole day is \"00:00-24:00\"",
        ),
        ("every = '1h'\nbetween = ['08:00']", "`08:00` is not a part of the day: it has no end"),
        (
            "every = '1h'\nbetween = ['mo-fr 08:00-09:00']",
            "`mo-fr 08:00-09:00` is not a part of the day: `mo` is none of mon, tue, wed, thu, fri, sat, sun",
        ),
        (
            "every = '1h'\nbetween = ['08:00-25:00']",
            "`08:00-25:00` is not a part of the day: `25:00` is no time of day",
        ),
        ("cron = '0 0 30 2 *'", "this never comes"),
        ("cron = '0 20 * * *'\nbetween = ['07:00-18:00']", "this never comes"),
        ("every = '24h'\nbetween = ['07:00-18:00']", "this never comes"),
    ] {
        let (_, mistakes) = read(text);
        assert_eq!(mistakes, [expected], "{text}");
    }
    for cron in ["61 * * * *", "* * * * foo", "a b c d e", "*/0 * * * *", "@daily", "0 0 0 0 0 0 2030"] {
        let (_, mistakes) = read(&format!("cron = '{cron}'"));
        assert!(
            matches!(mistakes.as_slice(), [one] if one.contains("is not a cron expression: ")),
            "{cron}: {mistakes:?}"
        );
    }
}

#[test]
fn an_interval_that_looks_for_something_begins_at_once_and_counts_from_there() {
    let now = at("2026-11-26T08:00:10Z");
    let mut course = Course::new(schedule("every = '30s'"), now, now);
    assert_eq!(course.look(at("2026-11-26T08:00:39Z")), Err(StdDuration::from_secs(1)));
    assert_eq!(course.look(at("2026-11-26T08:00:40Z")), Ok(Tick { at: at("2026-11-26T08:00:40Z"), again: false }));
}

#[tokio::test]
async fn an_interval_that_looks_for_something_does_not_wait_first() {
    let mut polls = schedule("every = '1h'").polls();
    tokio::time::timeout(StdDuration::from_secs(60), polls.next()).await.expect("at once");
    // By cron it does, and an interval that others know the times of does, too.
    assert!(!schedule("cron = '0 * * * *'").polls().is_first && !schedule("every = '1h'").ticks().is_first);
    let other_half =
        if Timestamp::now().strftime("%H").to_string().as_str() < "12" { "13:00-23:00" } else { "01:00-11:00" };
    assert!(!schedule(&format!("every = '1h'\nbetween = ['{other_half}']")).polls().is_first, "outside of the hours");
}
