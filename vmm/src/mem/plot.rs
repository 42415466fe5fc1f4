//! A lab's memory over time as a picture (SVG 1.1).
//!
//! Two areas on top of each other are what the lab held: pages of one guest alone, and pages that
//! guests share, counted once. A line above them is what they add up to when every guest's pages
//! are counted for it. Written by hand: it is one fixed chart, and a plotting library without
//! fonts places its labels by guess.

use std::fmt::Write;

use super::series::Point;

#[cfg(test)]
mod tests;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 420.0;
/// The chart's own area.
const LEFT: f64 = 80.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = HEIGHT - 48.0;

/// The chart for `points`, in order of time, under the title `lab`.
pub fn svg(lab: &str, points: &[Point]) -> String {
    let end = points.last().map_or(0, |point| point.at_ms).max(1);
    let most = points.iter().map(|point| point.rss_kib.max(point.pss_kib)).max().unwrap_or(0);
    let (unit, unit_kib) = if most >= 2 << 20 { ("GiB", 1 << 20) } else { ("MiB", 1 << 10) };
    let step = step(float(most) / float(unit_kib));
    let top = ((float(most) / float(unit_kib)) / step).ceil().max(1.0) * step;
    let x = |ms: u64| LEFT + float(ms) / float(end) * (RIGHT - LEFT);
    let y = |kib: u64| BOTTOM - float(kib) / float(unit_kib) / top * (BOTTOM - TOP);

    let mut out = String::new();
    let _ = writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="13" fill="#333">"##
    );
    let title = escaped(&format!("Memory of the lab {lab}"));
    let _ = writeln!(out, "<title>{title}</title>");
    let _ = writeln!(out, r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>"##);
    let _ = writeln!(out, r#"<text x="{LEFT}" y="28" font-size="17">{title}</text>"#);
    legend(&mut out);

    // Lines and labels of the two axes.
    let mut value = 0.0;
    while value <= top + step / 2.0 {
        let at = BOTTOM - value / top * (BOTTOM - TOP);
        let _ = writeln!(
            out,
            r##"<path d="M{LEFT} {at:.1}H{RIGHT}" stroke="#ddd"/><text x="{:.1}" y="{:.1}" text-anchor="end">{} {unit}</text>"##,
            LEFT - 8.0,
            at + 4.5,
            number(value),
        );
        value += step;
    }
    let seconds = float(end) / 1000.0;
    let every = self::step(seconds);
    let mut value = 0.0;
    while value <= seconds {
        let at = LEFT + value / seconds * (RIGHT - LEFT);
        let _ = writeln!(
            out,
            r##"<path d="M{at:.1} {BOTTOM}v5" stroke="#888"/><text x="{at:.1}" y="{:.1}" text-anchor="middle">{} s</text>"##,
            BOTTOM + 21.0,
            number(value),
        );
        value += every;
    }

    if !points.is_empty() {
        let line = |of: &dyn Fn(&Point) -> u64| {
            let mut path = String::new();
            for point in points {
                let _ = write!(path, "{:.1} {:.1} ", x(point.at_ms), y(of(point)));
            }
            path.trim_end().to_owned()
        };
        let area = |out: &mut String, colour: &str, of: &dyn Fn(&Point) -> u64| {
            let (from, to) = (x(points.first().map_or(0, |point| point.at_ms)), x(end));
            let path = line(of);
            let _ = writeln!(
                out,
                r#"<path d="M{from:.1} {BOTTOM} L{path} L{to:.1} {BOTTOM}Z" fill="{colour}"/>"#
            );
        };
        // The lower one over the upper one.
        area(&mut out, SHARED, &|point| point.pss_kib.max(point.private_kib));
        area(&mut out, PRIVATE, &|point| point.private_kib);
        let counted = line(&|point| point.rss_kib);
        let _ = writeln!(
            out,
            r#"<path d="M{counted}" fill="none" stroke="{COUNTED}" stroke-width="2" stroke-dasharray="6 4"/>"#
        );
    }
    let _ =
        writeln!(out, r##"<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="#888"/>"##);
    out.push_str("</svg>\n");
    out
}

const PRIVATE: &str = "#4477aa";
const SHARED: &str = "#99ccee";
const COUNTED: &str = "#cc6633";

fn legend(out: &mut String) {
    let mut at = LEFT;
    for (colour, text, width) in [
        (PRIVATE, "pages of one guest alone", 200.0),
        (SHARED, "shared pages, counted once", 220.0),
    ] {
        let _ = writeln!(
            out,
            r#"<rect x="{at}" y="45" width="14" height="14" fill="{colour}"/><text x="{}" y="57">{text}</text>"#,
            at + 20.0
        );
        at += width;
    }
    let _ = writeln!(
        out,
        r#"<path d="M{at} 52h28" stroke="{COUNTED}" stroke-width="2" stroke-dasharray="6 4"/><text x="{}" y="57">shared pages counted for each guest that has them</text>"#,
        at + 34.0
    );
}

/// The distance between the lines of an axis that reaches up to `most`: 1, 2 or 5 times a power
/// of ten, for at most ten of them.
fn step(most: f64) -> f64 {
    let least = (most / 10.0).max(1e-3);
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= least * 0.999).unwrap_or(power * 10.0)
}

/// A number of an axis, without the traces of binary fractions.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Exact up to 2^53, far more than is drawn.
fn float(value: u64) -> f64 {
    value as f64
}

/// Text as XML holds it; what no XML may hold is replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                out.push(char::REPLACEMENT_CHARACTER);
            }
            c => out.push(c),
        }
    }
    out
}
