use super::*;

#[test]
fn a_guests_lines_are_read_past_what_it_sends_to_measure_that() {
    let said = "\0\0\0exits kind=pio n=500 min_ns=5 p50_ns=64 mean_ns=65 ticks=8 cpl=3\r\n\
                \0exits: kind=hlt error: no timer interrupt comes\r\n\
                exits kind=none n=7 min_ticks=1 p50_ticks=2 mean_ticks=3 ticks=21 cpl=3\r\n";
    let expected = BTreeMap::from([("pio".to_owned(), Line { n: 500, p50: 64.0, mean: 65.0 })]);
    assert_eq!(Line::all(said), expected);
}

#[test]
fn each_kind_has_a_word_and_an_id_of_its_own() {
    let ids: Vec<_> = BOTH.iter().flat_map(|cpl| Kind::at(*cpl).map(|kind| kind.id(*cpl))).collect();
    let mut sorted = ids.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), ids.len());
    assert!(
        ids.contains(&"exits/pio-out-cpl3".to_owned()) && !ids.contains(&"exits/hlt-wake-cpl3".to_owned())
    );
}
