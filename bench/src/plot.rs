//! The results as pictures.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::contender::NATIVE_NAME;
use crate::summary::Row;

/// Height of one load's bars.
const ROW: u32 = 44;
const WIDTH: u32 = 900;

const NATIVE_COLOR: RGBColor = RGBColor(0x8a, 0x8f, 0x98);
const COLORS: [RGBColor; 3] =
    [RGBColor(0x1f, 0x77, 0xb4), RGBColor(0xd6, 0x7a, 0x1a), RGBColor(0x2c, 0x8a, 0x4b)];

/// What a picture shows of each row.
struct Picture {
    title: &'static str,
    file: &'static str,
    value: fn(&Row) -> Option<f64>,
}

const PICTURES: [Picture; 3] = [
    Picture {
        title: "Requests per second, redis_proxy = 1 (more is better)",
        file: "rate.svg",
        value: |row| row.ratios.map_or(Some(1.0), |ratios| Some(ratios.rate.median)),
    },
    Picture {
        title: "CPU of the proxy per request, redis_proxy = 1 (less is better)",
        file: "cpu.svg",
        value: |row| row.ratios.map_or(Some(1.0), |ratios| ratios.cpu.map(|cpu| cpu.median)),
    },
    Picture {
        title: "99th percentile of the latency, redis_proxy = 1 (less is better)",
        file: "p99.svg",
        value: |row| row.ratios.map_or(Some(1.0), |ratios| Some(ratios.p99.median)),
    },
];

/// Writes all pictures into `dir`.
pub(crate) fn draw_all(rows: &[Row], dir: &Path) -> Result<()> {
    for picture in &PICTURES {
        let path = dir.join(picture.file);
        let drawn = draw(rows, picture, &path);
        drawn.map_err(|error| anyhow!("drawing {}: {error}", path.display()))?;
    }
    Ok(())
}

/// Bars from the left, a group for each load, a bar for each contender.
fn draw(rows: &[Row], picture: &Picture, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let loads = distinct(rows.iter().map(|row| row.load));
    let contenders = distinct(rows.iter().map(|row| row.contender.as_str()));
    let greatest = rows.iter().filter_map(picture.value).fold(1.0, f64::max);

    let height = 90 + ROW * loads.len() as u32;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(picture.title, ("sans-serif", 18))
        .margin(12)
        .y_label_area_size(230)
        .x_label_area_size(24)
        .build_cartesian_2d(0.0..greatest * 1.1, 0.0..loads.len() as f64)?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().light_line_style(WHITE).draw()?;

    let thickness = 0.8 / contenders.len() as f64;
    for row in rows {
        let Some(value) = (picture.value)(row) else { continue };
        let place = loads.iter().position(|load| *load == row.load).unwrap_or_default();
        let number = contenders.iter().position(|name| *name == row.contender).unwrap_or_default();
        let top = (loads.len() - place) as f64 - 0.1 - number as f64 * thickness;
        let bar = Rectangle::new(
            [(0.0, top), (value, top - thickness)],
            color(&row.contender, number).filled(),
        );
        chart.draw_series([bar])?;
        let label = format!(" {value:.2}");
        chart.draw_series([Text::new(label, (value, top), ("sans-serif", 12))])?;
    }
    label_loads(&area, &chart, &loads)?;
    draw_legend(&area, &contenders)?;
    Ok(area.present()?)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedF64, RangedF64>>;
type Cartesian2d<X, Y> = plotters::coord::cartesian::Cartesian2d<X, Y>;
type RangedF64 = plotters::coord::types::RangedCoordf64;

fn label_loads<'a>(
    area: &Area<'a>,
    chart: &Chart<'a>,
    loads: &[&str],
) -> Result<(), Box<dyn std::error::Error>> {
    for (place, load) in loads.iter().enumerate() {
        let (_, y) = chart.backend_coord(&(0.0, (loads.len() - place) as f64 - 0.5));
        area.draw(&Text::new((*load).to_owned(), (12, y - 7), ("sans-serif", 14)))?;
    }
    Ok(())
}

fn draw_legend(area: &Area<'_>, contenders: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let mut x = 250;
    for (number, name) in contenders.iter().enumerate() {
        let square = Rectangle::new([(x, 36), (x + 10, 46)], color(name, number).filled());
        area.draw(&square)?;
        area.draw(&Text::new((*name).to_owned(), (x + 16, 34), ("sans-serif", 13)))?;
        x += 120;
    }
    Ok(())
}

fn color(contender: &str, number: usize) -> RGBColor {
    match contender {
        NATIVE_NAME => NATIVE_COLOR,
        _ => COLORS.get((number + COLORS.len() - 1) % COLORS.len()).copied().unwrap_or(BLACK),
    }
}

/// Each value once, in the order of their first coming.
fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}
