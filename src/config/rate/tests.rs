use proptest::prelude::*;

use super::*;

fn limit(per_second: u64, burst: u64) -> Option<Limit> {
    Some(Limit { per_second, burst })
}

#[test]
fn rates_are_read_and_written_alike() {
    let table = [
        ("100M", limit(100 << 20, 100 << 20), None),
        ("100M/2000", limit(100 << 20, 100 << 20), limit(2000, 2000)),
        ("/2000", None, limit(2000, 2000)),
        ("100M:1G", limit(100 << 20, 1 << 30), None),
        ("100M/2000:1G/9000", limit(100 << 20, 1 << 30), limit(2000, 9000)),
        ("100M/2000:/9000", limit(100 << 20, 100 << 20), limit(2000, 9000)),
        ("/2000:/1", None, limit(2000, 1)),
        ("1000", limit(1000, 1000), None),
    ];
    for (word, bytes, operations) in table {
        let rate = Rate { bytes, operations };
        assert_eq!(word.parse(), Ok(rate), "{word}");
        assert_eq!(rate.to_string(), word);
    }
    for word in
        ["", "/", ":", "0", "/0", "1M:", "1M:/5", "/5:1M", ":1M", "1M:0", "1M/x", "-1", "1M/5/5", "1M:1M:1M"]
    {
        let error = word.parse::<Rate>().unwrap_err().to_string();
        assert!(error.contains(&format!("'{word}' is no rate")), "{error}");
    }
}

proptest! {
    #[test]
    fn any_rate_survives_its_word(numbers in any::<[u64; 4]>(), has in any::<[bool; 2]>()) {
        let [a, b, c, d] = numbers.map(|number| number.max(1));
        let rate = Rate { bytes: limit(a, b).filter(|_| has[0]), operations: limit(c, d).filter(|_| has[1]) };
        if rate != Rate::default() {
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }
    }
}
