//! What stands in the shop's columns: plausible things, and the extremes of every class.

use rusqlite::types::Value;

use super::random::Random;

const GIVEN: &[&str] = &[
    "Ada", "Blaise", "Chloé", "Đorđe", "Edsger", "Fatima", "Grace", "Håkon", "Ινώ", "Jürgen", "小林", "Łucja",
];
const FAMILY: &[&str] = &[
    "Lovelace",
    "Pascal",
    "O'Neil",
    "Ångström",
    "Núñez",
    "Hopper",
    "佐藤",
    "Müller-Lüdenscheid",
    "Иванова",
    "Öz",
];
const COUNTRIES: &[&str] = &["DE", "FR", "JP", "NO", "PL", "TR", "US"];
const STATUSES: &[&str] = &["placed", "paid", "packed", "sent", "returned"];
const ADJECTIVES: &[&str] =
    &["Small", "Sturdy", "Quiet", "Æther", "Blue", "Second-hand", "Très petit", "光る"];
const THINGS: &[&str] = &["lamp", "teapot", "bicycle", "Füller", "notebook", "compass", "café table", "傘"];
const SENTENCES: &[&str] = &[
    "Works as it should.",
    "Arrived late, but well packed.",
    "It's \"fine\", says my aunt; I'd say 5/5.",
    "Très bien ✓",
    "tabs\tand\nlines\r\nand \\backslashes\\",
    "🚲🎉 ok",
    "",
    "נשלח בזמן",
];

pub(super) fn person(random: &mut Random) -> String {
    format!("{} {}", random.one_of(GIVEN), random.one_of(FAMILY))
}

pub(super) fn country(random: &mut Random) -> Option<&'static str> {
    (!random.once_in(8)).then(|| *random.one_of(COUNTRIES))
}

pub(super) fn status(random: &mut Random) -> &'static str {
    random.one_of::<&str>(STATUSES)
}

pub(super) fn title(random: &mut Random) -> String {
    format!("{} {}", random.one_of(ADJECTIVES), random.one_of(THINGS))
}

pub(super) fn sentence(random: &mut Random) -> &'static str {
    random.one_of::<&str>(SENTENCES)
}

/// An amount with two digits.
pub(super) fn money(random: &mut Random) -> f64 {
    let cents = i32::try_from(random.below(1_000_000)).unwrap_or_default();
    f64::from(cents) / 100.0
}

pub(super) fn moment(random: &mut Random) -> String {
    let mut part = |from: u64, end: u64| from + random.below(end);
    format!(
        "{}-{:02}-{:02} {:02}:{:02}:{:02}",
        part(2019, 7),
        part(1, 12),
        part(1, 28),
        part(0, 24),
        part(0, 60),
        part(0, 60)
    )
}

pub(super) fn whole(random: &mut Random) -> Value {
    const EXTREMES: &[i64] = &[
        0,
        1,
        -1,
        127,
        128,
        -129,
        32_768,
        8_388_608,
        -2_147_483_649,
        1 << 53,
        (1 << 53) + 1,
        i64::MAX,
        i64::MIN,
    ];
    match random.below(4) {
        0 => Value::Integer(*random.one_of(EXTREMES)),
        1 => Value::Null,
        _ => Value::Integer(random.bits().cast_signed() >> random.below(64)),
    }
}

pub(super) fn fraction(random: &mut Random) -> Value {
    const EXTREMES: &[f64] = &[
        0.1,
        -0.1,
        1e308,
        -1e308,
        5e-324,
        2.5,
        -0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN_POSITIVE,
        9_007_199_254_740_992.0,
    ];
    match random.below(4) {
        0 => Value::Real(*random.one_of(EXTREMES)),
        1 => Value::Null,
        _ => Value::Real(finite(random)),
    }
}

/// Any bits that are a number: SQLite stores NaN as NULL.
fn finite(random: &mut Random) -> f64 {
    let number = f64::from_bits(random.bits());
    if number.is_nan() { 0.5 } else { number }
}

pub(super) fn words(random: &mut Random) -> Value {
    match random.below(6) {
        0 => Value::Null,
        1 => Value::Text("a\0b".to_owned()),
        2 => Value::Text("5 kB of text ".repeat(400)),
        3 => Value::Text("12345".to_owned()),
        _ => Value::Text((*random.one_of(SENTENCES)).to_owned()),
    }
}

pub(super) fn blob(random: &mut Random) -> Value {
    match random.below(5) {
        0 => Value::Null,
        1 => Value::Blob(Vec::new()),
        2 => Value::Blob(vec![0; 16]),
        _ => {
            let length = random.below(300);
            Value::Blob(random.bytes(length))
        }
    }
}

/// For a NUMERIC column, which stores what looks like a number as one.
pub(super) fn amount(random: &mut Random) -> Value {
    match random.below(5) {
        0 => Value::Null,
        1 => Value::Text("12.50".to_owned()),
        2 => Value::Text("not a number".to_owned()),
        3 => Value::Text("123456789012345678901234567890".to_owned()),
        _ => Value::Real(money(random)),
    }
}

pub(super) fn flag(random: &mut Random) -> Value {
    match random.below(3) {
        0 => Value::Null,
        n => Value::Integer(i64::from(n == 1)),
    }
}

/// For a column without a type: every class, as it comes.
pub(super) fn anything(random: &mut Random) -> Value {
    match random.below(5) {
        0 => Value::Null,
        1 => whole(random),
        2 => fraction(random),
        3 => words(random),
        _ => blob(random),
    }
}
