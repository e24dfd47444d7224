//! How wide each column of the table is.

/// A column.
pub struct Column {
    pub title: &'static str,
    /// Narrower than this it says nothing.
    pub least: usize,
    /// Wider than this it takes from the others.
    pub most: usize,
    /// Dropped when the terminal is too narrow, highest first; 0 is never dropped.
    pub drop: u8,
}

const fn column(title: &'static str, least: usize, most: usize, drop: u8) -> Column {
    Column {
        title,
        least,
        most,
        drop,
    }
}

pub const COUNT: usize = 14;

pub const COLUMNS: [Column; COUNT] = [
    column("TIME UTC", 8, 12, 0),
    column("TOKEN", 10, 10, 0),
    column("PROVIDER", 6, 14, 5),
    column("SCHEME", 6, 16, 8),
    column("PROCESS", 9, 28, 0),
    column("USER", 4, 16, 7),
    column("UNIT", 6, 28, 9),
    column("SIDE", 6, 6, 4),
    column("PEER", 9, 47, 10),
    column("HOST", 9, 40, 2),
    column("METHOD", 4, 7, 3),
    column("PATH", 8, 80, 0),
    column("STATUS", 6, 8, 0),
    column("EVIDENCE", 6, 8, 6),
];

/// Between two columns.
pub const GAP: usize = 1;

/// Widths by the texts' own widths (`wanted`) within `total` columns; 0 for a column that is dropped.
pub fn layout(wanted: &[usize; COUNT], total: usize) -> [usize; COUNT] {
    let mut widths: [usize; COUNT] =
        std::array::from_fn(|index| wanted[index].clamp(COLUMNS[index].least, COLUMNS[index].most));
    loop {
        let used = |widths: &[usize; COUNT]| {
            let shown = widths.iter().filter(|width| **width > 0).count();
            widths.iter().sum::<usize>() + shown.saturating_sub(1) * GAP
        };
        let over = used(&widths).saturating_sub(total);
        if over == 0 {
            return widths;
        }
        let spare: usize = shrinkable(&widths).map(|(_, spare)| spare).sum();
        if spare >= over {
            shrink(&mut widths, over);
            return widths;
        }
        let dropped = (0..COUNT)
            .filter(|index| widths[*index] > 0 && COLUMNS[*index].drop > 0)
            .max_by_key(|index| COLUMNS[*index].drop);
        match dropped {
            Some(index) => widths[index] = 0,
            // Narrower than anything can be shown in: the terminal wraps.
            None => {
                shrink(&mut widths, spare);
                return widths;
            }
        }
    }
}

/// Columns that are wider than the least, with what they could give.
fn shrinkable(widths: &[usize; COUNT]) -> impl Iterator<Item = (usize, usize)> {
    let spare =
        |(index, width): (usize, &usize)| (index, width.saturating_sub(COLUMNS[index].least));
    widths
        .iter()
        .enumerate()
        .map(spare)
        .filter(|(_, spare)| *spare > 0)
}

/// Takes from the one that can give most, column by column.
fn shrink(widths: &mut [usize; COUNT], by: usize) {
    for _ in 0..by {
        let Some((index, _)) = shrinkable(widths).max_by_key(|(_, spare)| *spare) else {
            return;
        };
        widths[index] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_terminal_is_kept() {
        let smallest = COLUMNS.iter().filter(|column| column.drop == 0);
        let smallest: usize = smallest.map(|column| column.least + GAP).sum::<usize>() - GAP;
        for wanted in [[0; COUNT], [3; COUNT], [20; COUNT], [1000; COUNT]] {
            for total in 0..400 {
                let widths = layout(&wanted, total);
                let shown = widths.iter().filter(|width| **width > 0).count();
                let used = widths.iter().sum::<usize>() + (shown - 1) * GAP;
                assert!(used <= total.max(smallest), "{used} of {total}: {widths:?}");
                for (width, column) in widths.iter().zip(&COLUMNS) {
                    assert!(*width == 0 || (column.least..=column.most).contains(width));
                    assert!(*width > 0 || column.drop > 0);
                }
            }
        }
    }

    #[test]
    fn room_is_used() {
        let wide = layout(&[1000; COUNT], 10_000);
        assert!(
            wide.iter()
                .zip(&COLUMNS)
                .all(|(width, column)| *width == column.most)
        );
        let narrow = layout(&[1000; COUNT], 200);
        assert_eq!(
            narrow.iter().sum::<usize>() + (COUNT - 1) * GAP,
            200,
            "{narrow:?}"
        );
        assert!(
            layout(&[10; COUNT], 80)
                .iter()
                .filter(|width| **width > 0)
                .count()
                >= 6
        );
    }
}
