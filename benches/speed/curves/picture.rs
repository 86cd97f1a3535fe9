//! The picture of the growing curves: one panel for each quantity.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::growth::grouped;
use super::{Curve, HELD_ELSEWHERE, HELD_HERE, LOCK_MANY, Point, WAITING};

const SIZE: (u32, u32) = (760, 330);
const BLUE: RGBColor = RGBColor(31, 119, 180);
const ORANGE: RGBColor = RGBColor(214, 110, 20);
const GREY: RGBColor = RGBColor(130, 130, 130);
/// The place of 0 on a logarithmic axis.
const NOTHING: f64 = -1.0;

/// The quantity that grows, and its curves. Both axes are logarithmic.
const PANELS: &[(&str, &[Line])] = &[
    ("files in one lock_many", &[(LOCK_MANY, "lock_many, a file", BLUE)]),
    ("other locks held", &[(HELD_HERE, "by this thread", BLUE), (HELD_ELSEWHERE, "by another thread", ORANGE)]),
    ("threads that wait elsewhere", &[(WAITING, "lock and unlock", BLUE)]),
];

/// The name of a curve, its label, and its colour.
type Line = (&'static str, &'static str, RGBColor);

pub fn draw(curves: &[Curve], path: &Path) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let title = ("sans-serif", 16).into_font().style(FontStyle::Bold).into_text_style(&area);
    area.draw(&Text::new("Microseconds a lock and unlock", (10, 10), title))?;
    let below = area.margin(30, 0, 0, 0);
    let shown = PANELS.iter().flat_map(|(_, lines)| *lines).filter_map(|(name, ..)| named(name, curves));
    let times: Vec<f64> =
        shown.flat_map(|curve| &curve.points).flat_map(|point| [Some(point.ours()), point.bare()]).flatten().collect();
    let least = times.iter().copied().fold(f64::MAX, f64::min) * 1e6;
    let most = times.iter().copied().fold(f64::MIN, f64::max) * 1e6;
    // The axis goes below the least value, so that there is room for a name.
    let powers_of_ten = 10_f64.powf((least / 2.0).log10().floor())..10_f64.powf(most.log10().ceil());
    for (panel, (what, lines)) in below.split_evenly((1, PANELS.len())).iter().zip(PANELS) {
        draw_panel(panel, what, lines, powers_of_ten.clone(), curves)?;
    }
    area.present()?;
    Ok(())
}

fn named<'a>(name: &str, curves: &'a [Curve]) -> Option<&'a Curve> {
    curves.iter().find(|curve| curve.name == name)
}

type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw_panel(
    area: &Panel,
    what: &str,
    lines: &[Line],
    microseconds: Range<f64>,
    curves: &[Curve],
) -> Result<(), Box<dyn Error>> {
    let x = |n: usize| if n == 0 { NOTHING } else { (n as f64).log10() };
    let shown: Vec<(&Curve, &Line)> = lines.iter().filter_map(|line| Some((named(line.0, curves)?, line))).collect();
    let all = || shown.iter().flat_map(|(curve, _)| &curve.points).map(|point| x(point.n));
    let (first, last) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max).ceil());
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(16)
        .x_label_area_size(40)
        .y_label_area_size(36)
        .build_cartesian_2d(first..last, microseconds.log_scale())?;
    let label = ("sans-serif", 14).into_font();
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(GREY)
        .label_style(label.clone())
        .x_desc(what)
        .axis_desc_style(label.clone())
        .x_labels(6)
        .x_label_formatter(&|x| if *x == NOTHING { "0".into() } else { grouped(10_f64.powf(*x).round() as usize) })
        .y_label_formatter(&|y| y.to_string())
        .draw()?;
    let count = shown.len();
    for (n, (curve, (_, text, colour))) in shown.into_iter().enumerate() {
        let places = |seconds: fn(&Point) -> Option<f64>| {
            curve.points.iter().filter_map(move |point| Some((x(point.n), seconds(point)? * 1e6))).collect::<Vec<_>>()
        };
        let (above, below) = ((-6, VPos::Bottom), (6, VPos::Top));
        let ours = places(|point| Some(point.ours()));
        let mut drawn = vec![(ours, *text, *colour, if n + 1 == count { above } else { below })];
        // The bare calls are the same for all curves of a panel.
        if n == 0 {
            drawn.push((places(Point::bare), "bare calls", GREY, below));
        }
        for (line, text, colour, (y, vertical)) in drawn {
            let Some(last) = line.last().copied() else { continue };
            let style = label.clone().color(&colour).into_text_style(area).pos(Pos::new(HPos::Right, vertical));
            chart.draw_series(line.iter().map(|place| Circle::new(*place, 3, colour.filled())))?;
            chart.draw_series([PathElement::new(line, colour.stroke_width(2))])?;
            chart.draw_series([EmptyElement::at(last) + Text::new(text.to_owned(), (0, y), style)])?;
        }
    }
    Ok(())
}
