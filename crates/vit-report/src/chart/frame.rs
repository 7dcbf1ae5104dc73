//! Everything around a chart's lines: title, grid, ticks, labels and legend.

use super::scale::Scale;
use super::thin::Pixel;
use super::{Axis, Series};

/// The charts' style sheet.
pub(crate) const STYLE: &str = include_str!("style.css");

/// Layout of a figure, in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    width: f64,
    height: f64,
    /// The sides of the grid.
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// Distance of the axis labels from the figure's left side and bottom.
    labels: f64,
    /// Largest number of tick intervals on an axis.
    x_ticks: usize,
    y_ticks: usize,
}

impl Size {
    /// A standalone file, with title and legend above the grid.
    pub(super) const FILE: Self = Self {
        width: 720.0,
        height: 400.0,
        left: 72.0,
        right: 696.0,
        top: 56.0,
        bottom: 344.0,
        labels: 16.0,
        x_ticks: 10,
        y_ticks: 6,
    };
    /// A part of a page, which shows the title itself. No wider than a phone, so that its text is as large as the
    /// page's.
    pub(super) const PART: Self = Self {
        width: 380.0,
        height: 240.0,
        left: 56.0,
        right: 372.0,
        top: 10.0,
        bottom: 196.0,
        labels: 8.0,
        x_ticks: 5,
        y_ticks: 5,
    };
}

/// Distance from the grid's sides to the first and last point.
const INSET: f64 = 12.0;

/// Maps data to positions in the figure.
pub(super) struct Frame<'a> {
    size: Size,
    x_axis: &'a Axis,
    y_axis: &'a Axis,
    x: Scale,
    y: Scale,
}

impl<'a> Frame<'a> {
    /// A frame that fits these points.
    pub(super) fn around<'p, Points: Iterator<Item = &'p (f64, f64)>>(
        size: Size,
        x_axis: &'a Axis,
        y_axis: &'a Axis,
        points: impl Fn() -> Points,
    ) -> Self {
        let x = Scale::tight(points().map(|point| point.0), size.x_ticks, x_axis.ticks);
        let y = Scale::round(points().map(|point| point.1), size.y_ticks, y_axis.ticks);
        Self { size, x_axis, y_axis, x, y }
    }

    /// Position of a point in the figure.
    pub(super) fn pixel(&self, (x, y): (f64, f64)) -> Pixel {
        let Size { top, bottom, .. } = self.size;
        let (left, right) = (self.size.left + INSET, self.size.right - INSET);
        (left + self.x.position(x) * (right - left), bottom + self.y.position(y) * (top - bottom))
    }

    /// Opening of a standalone file, up to the lines.
    pub(super) fn open(&self, title: &str) -> String {
        let Size { width, height, left, .. } = self.size;
        [
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"vit-chart\" role=\"img\" \
                 viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n"
            ),
            format!("<title>{title}</title>\n"),
            format!("<style>\n{STYLE}</style>\n"),
            format!("<rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n"),
            format!("<text class=\"title\" x=\"{left}\" y=\"32\">{title}</text>\n"),
            self.axes(),
        ]
        .concat()
    }

    /// Opening of a part of a page, which supplies style and title.
    pub(super) fn open_part(&self, title: &str) -> String {
        let Size { width, height, left, right, top, bottom, .. } = self.size;
        let x = self.x_axis.label;
        format!(
            "<svg class=\"vit-chart\" role=\"img\" aria-label=\"{title}\" \
             viewBox=\"0 0 {width} {height}\" data-grid=\"{left} {right} {top} {bottom} {INSET}\" \
             data-x=\"{x}\">\n{}",
            self.axes()
        )
    }

    /// Grid, ticks and labels.
    fn axes(&self) -> String {
        let Size { height, left, right, top, bottom, .. } = self.size;
        let middle = (left + right) / 2.0;
        let (x_label, y_label) = (self.x_axis.label, self.y_axis.label);
        let (x_place, y_place) = (height - self.size.labels, (top + bottom) / 2.0);
        // Rotated letters rise to the left of their baseline.
        let y_left = self.size.labels + 4.0;
        [
            self.y.ticks().into_iter().map(|tick| self.y_tick(tick)).collect(),
            self.x.ticks().into_iter().map(|tick| self.x_tick(tick)).collect(),
            format!(
                "<text x=\"{middle}\" y=\"{x_place}\" text-anchor=\"middle\">{x_label}</text>\n"
            ),
            format!(
                "<text transform=\"translate({y_left} {y_place}) rotate(-90)\" \
                 text-anchor=\"middle\">{y_label}</text>\n"
            ),
        ]
        .concat()
    }

    /// The legend entry of the series drawn as number `at`; the last drawn is rightmost.
    pub(super) fn legend(&self, at: usize, series: &Series) -> String {
        const PITCH: f64 = 88.0;
        let left = self.size.right - 2.0 * PITCH + at as f64 * PITCH;
        let (end, text, classes) = (left + 18.0, left + 24.0, series.classes());
        format!(
            "<path class=\"line {classes}\" d=\"M{left} 28H{end}\"/>\n\
             <text class=\"tick\" x=\"{text}\" y=\"32\">{}</text>\n",
            series.name
        )
    }

    /// A horizontal grid line and its value.
    fn y_tick(&self, tick: f64) -> String {
        let y = self.pixel((0.0, tick)).1;
        let Size { left, right: end, .. } = self.size;
        let (right, middle, name) = (left - 8.0, y + 4.0, self.y.name(tick));
        format!(
            "<path class=\"grid\" d=\"M{left} {y:.1}H{end}\"/>\n\
             <text class=\"tick\" x=\"{right}\" y=\"{middle:.1}\" text-anchor=\"end\">{name}</text>\n"
        )
    }

    /// A vertical line that marks a change of settings.
    pub(super) fn change(&self, at: f64) -> String {
        let x = self.pixel((at, 0.0)).0;
        let Size { top, bottom, .. } = self.size;
        let label = self.x_axis.label;
        format!(
            "<path class=\"line dashed muted\" d=\"M{x:.1} {top}V{bottom}\">\
             <title>settings changed after {label} {at}</title></path>\n"
        )
    }

    /// A vertical grid line and its value.
    fn x_tick(&self, tick: f64) -> String {
        let x = self.pixel((tick, 0.0)).0;
        let Size { top, bottom, .. } = self.size;
        let (below, name) = (bottom + 18.0, self.x.name(tick));
        format!(
            "<path class=\"grid\" d=\"M{x:.1} {top}V{bottom}\"/>\n\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\">{name}</text>\n"
        )
    }
}
