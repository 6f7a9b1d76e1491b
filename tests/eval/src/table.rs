//! The one table: aims, floors and measured values.

use std::fmt;

use crate::metrics::Estimate;

/// A measured value and what it is compared with.
#[derive(Debug, Clone)]
pub struct Line {
    /// Set and measure.
    pub name: String,
    /// What was measured.
    pub measured: Estimate,
    /// What was wished for.
    pub aim: Aim,
    /// What plain parts reached; none if nobody measured it.
    pub floor: Option<f64>,
}

/// A bound that a measured value should keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// Nothing: the value explains others.
    Shown,
}

/// All lines.
#[derive(Debug, Default)]
pub struct Table(pub Vec<Line>);

impl Line {
    /// Returns whether the mean keeps the aim.
    pub fn is_met(&self) -> bool {
        match self.aim {
            Aim::AtLeast(aim) => self.measured.mean >= aim,
            Aim::AtMost(aim) => self.measured.mean <= aim,
            Aim::Shown => true,
        }
    }
}

impl Table {
    /// Returns whether every aim is met.
    pub fn is_met(&self) -> bool {
        self.0.iter().all(Line::is_met)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| measure | n | floor | aim | measured | 95 % interval | |")?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | --- | --- |")?;
        for line in &self.0 {
            let floor = line.floor.map_or_else(String::new, |floor| format!("{floor:.3}"));
            let aim = match line.aim {
                Aim::AtLeast(aim) => format!("≥ {aim:.3}"),
                Aim::AtMost(aim) => format!("≤ {aim:.3}"),
                Aim::Shown => String::new(),
            };
            let verdict = match line.aim {
                Aim::Shown => "",
                _ if line.is_met() => "met",
                _ => "missed",
            };
            let Estimate {
                mean,
                low,
                high,
                questions,
            } = line.measured;
            writeln!(
                f,
                "| {} | {questions} | {floor} | {aim} | {mean:.3} | {low:.3} to {high:.3} | {verdict} |",
                line.name
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whether_its_aim_is_met() {
        let line = |mean: f64, aim| Line {
            name: "x".to_owned(),
            measured: Estimate {
                mean,
                low: mean,
                high: mean,
                questions: 1,
            },
            aim,
            floor: Some(0.5),
        };
        for (mean, aim, met) in [
            (0.75, Aim::AtLeast(0.75), true),
            (0.74, Aim::AtLeast(0.75), false),
            (1.3, Aim::AtMost(1.2), false),
            (1.1, Aim::AtMost(1.2), true),
            (0.0, Aim::Shown, true),
            (f64::NAN, Aim::AtLeast(0.0), false),
        ] {
            assert_eq!(line(mean, aim).is_met(), met);
            assert_eq!(Table(vec![line(1.0, Aim::Shown), line(mean, aim)]).is_met(), met);
        }
        assert!(
            Table(vec![line(0.74, Aim::AtLeast(0.75))])
                .to_string()
                .contains("| x | 1 | 0.500 | ≥ 0.750 | 0.740 | 0.740 to 0.740 | missed |")
        );
    }
}
