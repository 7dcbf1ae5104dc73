//! What stands around a chart's lines: title, grid, ticks, labels and legend.

use super::scale::Scale;
use super::thin::Pixel;
use super::{Axis, Series};

/// The figure's size in pixels, at which it is drawn where nothing else is asked.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;

/// The sides of the grid.
const LEFT: f64 = 72.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = HEIGHT - 56.0;

/// Room between the grid's sides and the first and last point.
const INSET: f64 = 12.0;

/// At most so many ticks, and one more, on an axis.
const X_TICKS: usize = 10;
const Y_TICKS: usize = 6;

/// The place of everything in a chart.
pub(super) struct Frame<'a> {
    x_axis: &'a Axis,
    y_axis: &'a Axis,
    x: Scale,
    y: Scale,
}

impl<'a> Frame<'a> {
    /// A frame that these points fit into.
    pub(super) fn around<'p, Points: Iterator<Item = &'p (f64, f64)>>(
        x_axis: &'a Axis,
        y_axis: &'a Axis,
        points: impl Fn() -> Points,
    ) -> Self {
        let x = Scale::tight(points().map(|point| point.0), X_TICKS, x_axis.ticks);
        let y = Scale::round(points().map(|point| point.1), Y_TICKS, y_axis.ticks);
        Self { x_axis, y_axis, x, y }
    }

    /// Where a point lies in the figure.
    pub(super) fn pixel(&self, (x, y): (f64, f64)) -> Pixel {
        let (left, right) = (LEFT + INSET, RIGHT - INSET);
        (left + self.x.position(x) * (right - left), BOTTOM + self.y.position(y) * (TOP - BOTTOM))
    }

    /// The document's beginning, up to where lines are drawn.
    pub(super) fn open(&self, title: &str) -> String {
        let middle = (LEFT + RIGHT) / 2.0;
        let (x_label, y_label) = (self.x_axis.label, self.y_axis.label);
        let (x_place, y_place) = (HEIGHT - 16.0, (TOP + BOTTOM) / 2.0);
        [
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"vit-chart\" role=\"img\" \
                 viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\">\n"
            ),
            format!("<title>{title}</title>\n"),
            format!("<style>\n{}</style>\n", include_str!("style.css")),
            format!("<rect class=\"ground\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n"),
            format!("<text class=\"title\" x=\"{LEFT}\" y=\"32\">{title}</text>\n"),
            self.y.ticks().into_iter().map(|tick| self.y_tick(tick)).collect(),
            self.x.ticks().into_iter().map(|tick| self.x_tick(tick)).collect(),
            format!(
                "<text x=\"{middle}\" y=\"{x_place}\" text-anchor=\"middle\">{x_label}</text>\n"
            ),
            format!(
                "<text transform=\"translate(20 {y_place}) rotate(-90)\" \
                 text-anchor=\"middle\">{y_label}</text>\n"
            ),
        ]
        .concat()
    }

    /// The legend's entry of the series drawn as number `at`: the last drawn stands rightmost.
    pub(super) fn legend(&self, at: usize, series: &Series) -> String {
        const PITCH: f64 = 88.0;
        let left = RIGHT - 2.0 * PITCH + at as f64 * PITCH;
        let (end, text, colour) = (left + 18.0, left + 24.0, series.colour.class());
        format!(
            "<path class=\"line {colour}\" d=\"M{left} 28H{end}\"/>\n\
             <text class=\"tick\" x=\"{text}\" y=\"32\">{}</text>\n",
            series.name
        )
    }

    /// A line across the grid, and the value that it stands for.
    fn y_tick(&self, tick: f64) -> String {
        let y = self.pixel((0.0, tick)).1;
        let (right, middle, name) = (LEFT - 8.0, y + 4.0, self.y.name(tick));
        format!(
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>\n\
             <text class=\"tick\" x=\"{right}\" y=\"{middle:.1}\" text-anchor=\"end\">{name}</text>\n"
        )
    }

    /// A line down the grid, and the value that it stands for.
    fn x_tick(&self, tick: f64) -> String {
        let x = self.pixel((tick, 0.0)).0;
        let (below, name) = (BOTTOM + 18.0, self.x.name(tick));
        format!(
            "<path class=\"grid\" d=\"M{x:.1} {TOP}V{BOTTOM}\"/>\n\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\">{name}</text>\n"
        )
    }
}
