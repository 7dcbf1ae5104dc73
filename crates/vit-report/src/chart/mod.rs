//! Line charts as SVG, light or dark like the viewer's screen.

mod frame;
mod scale;
mod thin;

use std::borrow::Cow;

use frame::{Frame, Size};
use thin::{Pixel, thin};

use crate::escape::escape;

pub(crate) use frame::STYLE;
pub(crate) use scale::Ticks;

/// A line chart. Its texts are the program's own and need no escaping, except the names of series in a page, which
/// `figure` escapes.
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    /// Later series are drawn over earlier ones.
    pub(crate) series: Vec<Series>,
    /// Positions on the x axis where settings changed; drawn only between points.
    pub(crate) changes: Vec<f64>,
}

/// Label and ticks of an axis.
pub(crate) struct Axis {
    pub(crate) label: &'static str,
    pub(crate) ticks: Ticks,
}

/// A line of a chart.
pub(crate) struct Series {
    pub(crate) name: Cow<'static, str>,
    pub(crate) colour: Colour,
    pub(crate) stroke: Stroke,
    pub(crate) marks: Marks,
    /// (x, y), sorted by x. Non-finite points are skipped.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A series' colour, with a light and a dark variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Blue,
    Red,
    /// Grey, for a series shown only for comparison.
    Muted,
    Orange,
    Green,
    Purple,
    Pink,
    Teal,
}

/// A line's dash pattern, for when colours alone are not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stroke {
    Solid,
    Dashed,
    Dotted,
}

/// Where the legend goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Legend {
    /// Above the figure, if it has several lines.
    Above,
    /// Once for all figures of a page.
    Elsewhere,
}

/// Markers of a series' points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// A line; a single point is a dot.
    Line,
    /// A line with a round dot on every point.
    LineAndDots,
}

/// Most values per line that the page's script receives.
const MOST_VALUES: usize = 800;

/// Six digits, more than anyone reads.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// Larger values are skipped like infinities: their differences would not be finite.
const LARGEST: f64 = 1e100;

impl Chart {
    /// The chart as an SVG file; `None` if it has no point.
    pub(crate) fn svg(mut self) -> Option<String> {
        self.leave_out_the_undrawable();
        let frame = self.frame(Size::FILE)?;
        let legend = |at, series| frame.legend(at, series);
        let several = self.series.len() > 1;
        let entries = self.series.iter().enumerate().filter(|_| several);
        let entries: String = entries.map(|(at, series)| legend(at, series)).collect();
        Some([frame.open(self.title), self.lines(&frame), entries, "</svg>\n".to_owned()].concat())
    }

    /// The chart as a part of a page, with its title; `None` if it has no point.
    pub(crate) fn figure(mut self, legend: Legend) -> Option<String> {
        self.leave_out_the_undrawable();
        let frame = self.frame(Size::PART)?;
        // The last drawn series is on top, and comes first in the legend.
        let legend: String = match (legend, &self.series[..]) {
            (Legend::Elsewhere, _) | (_, [_]) => String::new(),
            (Legend::Above, several) => several.iter().rev().map(Series::entry).collect(),
        };
        let title = self.title;
        let lines = self.series.iter().map(|series| series.part(&frame));
        let lines = lines.collect();
        let parts =
            [frame.open_part(title), self.changes(&frame), lines, "</svg>\n".to_owned()].concat();
        Some(format!(
            "<figure class=\"chart\"><figcaption><b>{title}</b>{legend}</figcaption>\n{parts}</figure>\n"
        ))
    }

    /// All lines and dots.
    fn lines(&self, frame: &Frame) -> String {
        self.series.iter().map(|series| series.svg(&series.pixels(frame))).collect()
    }

    /// A vertical line for each change of settings.
    fn changes(&self, frame: &Frame) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let is_inside =
            |change: &&f64| points().any(|(x, _)| x <= change) && points().any(|(x, _)| x > change);
        self.changes.iter().filter(is_inside).map(|&change| frame.change(change)).collect()
    }

    /// A frame around all points; `None` without points.
    fn frame(&self, size: Size) -> Option<Frame<'_>> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        points().next()?;
        Some(Frame::around(size, &self.x, &self.y, points))
    }

    fn leave_out_the_undrawable(&mut self) {
        let drawable = |value: f64| value.abs() <= LARGEST;
        for series in &mut self.series {
            series.points.retain(|&(x, y)| drawable(x) && drawable(y));
        }
        self.series.retain(|series| !series.points.is_empty());
    }
}

impl Series {
    /// Its legend entry.
    pub(crate) fn entry(&self) -> String {
        let name = escape(&self.name);
        format!(
            "<span class=\"entry\" data-name=\"{name}\"><i class=\"swatch {}\"></i>{name}</span>",
            self.classes()
        )
    }

    fn pixels(&self, frame: &Frame) -> Vec<Pixel> {
        self.points.iter().map(|&at| frame.pixel(at)).collect()
    }

    /// The line as a part of a page, with name and values for the page's script.
    fn part(&self, frame: &Frame) -> String {
        let stride = self.points.len().div_ceil(MOST_VALUES).max(1);
        // Keeps the last of each stretch, so that the newest point is included.
        let values = self.points.rchunks(stride).rev().filter_map(<[_]>::last);
        let values: Vec<String> = values.map(|(x, y)| format!("{x},{}", rounded(*y))).collect();
        format!(
            "<g class=\"series\" data-name=\"{}\" data-values=\"{}\">\n{}</g>\n",
            escape(&self.name),
            values.join(" "),
            self.svg(&self.pixels(frame))
        )
    }

    /// The CSS classes of its line.
    fn classes(&self) -> String {
        let colour = self.colour.class();
        match self.stroke {
            Stroke::Solid => colour.to_owned(),
            Stroke::Dashed => format!("{colour} dashed"),
            Stroke::Dotted => format!("{colour} dotted"),
        }
    }

    /// The line and its dots.
    fn svg(&self, points: &[Pixel]) -> String {
        let colour = self.colour.class();
        let line: Vec<String> =
            thin(points).iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let line = format!(
            "<polyline class=\"line {}\" points=\"{}\"/>\n",
            self.classes(),
            line.join(" ")
        );
        match self.marks {
            Marks::Line if points.len() > 1 => line,
            Marks::Line | Marks::LineAndDots => {
                let dots = thin(points).into_iter().map(|at| dot(at, colour));
                std::iter::once(line).chain(dots).collect()
            }
        }
    }
}

impl Colour {
    /// Its CSS class.
    fn class(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Red => "red",
            Self::Muted => "muted",
            Self::Orange => "orange",
            Self::Green => "green",
            Self::Purple => "purple",
            Self::Pink => "pink",
            Self::Teal => "teal",
        }
    }
}

fn dot((x, y): Pixel, class: &str) -> String {
    format!("<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>, marks: Marks) -> Chart {
        Chart {
            title: "A title",
            x: Axis { label: "across", ticks: Ticks::Whole },
            y: Axis { label: "up", ticks: Ticks::Any },
            series: vec![Series {
                name: "line".into(),
                colour: Colour::Blue,
                stroke: Stroke::Solid,
                marks,
                points,
            }],
            changes: Vec::new(),
        }
    }

    fn count(svg: &str, part: &str) -> usize {
        svg.matches(part).count()
    }

    /// The points of the first line.
    fn line(svg: &str) -> Vec<Pixel> {
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let pixel = |point: &str| {
            let (x, y) = point.split_once(',').unwrap();
            (x.parse().unwrap(), y.parse().unwrap())
        };
        points.split(' ').map(pixel).collect()
    }

    #[test]
    fn a_chart_has_title_labels_ticks_line_and_dots() {
        let svg =
            chart(vec![(1.0, 0.0), (2.0, 3.0), (3.0, 6.0)], Marks::LineAndDots).svg().unwrap();
        assert_eq!(count(&svg, "<title>A title</title>"), 1);
        assert_eq!(count(&svg, ">across</text>"), 1);
        assert_eq!(count(&svg, ">up</text>"), 1);
        // Three vertical and seven horizontal lines.
        assert_eq!(count(&svg, "class=\"grid\""), 10);
        assert_eq!(count(&svg, "<circle"), 3);
        assert_eq!(line(&svg), [(84.0, 344.0), (384.0, 200.0), (684.0, 56.0)]);
        assert!(svg.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn a_single_point_is_a_dot_in_the_middle() {
        for marks in [Marks::Line, Marks::LineAndDots] {
            let svg = chart(vec![(1.0, 2.5)], marks).svg().unwrap();
            assert_eq!(count(&svg, "<circle class=\"dot blue\" cx=\"384.0\" cy=\"200.0\""), 1);
        }
    }

    #[test]
    fn a_constant_is_a_level_line() {
        let svg = chart((0..5).map(|x| (f64::from(x), 7.0)).collect(), Marks::Line).svg().unwrap();
        assert!(line(&svg).iter().all(|point| point.1 == line(&svg)[0].1));
    }

    #[test]
    fn non_finite_points_are_skipped() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX];
        let points = odd.into_iter().chain([1.0, 2.0]).enumerate();
        let points = points.map(|(at, value)| (at as f64, value)).collect();
        let svg = chart(points, Marks::Line).svg().unwrap();
        assert_eq!(line(&svg).len(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_chart_without_points_is_none() {
        assert!(chart(Vec::new(), Marks::Line).svg().is_none());
        assert!(chart(vec![(1.0, f64::NAN)], Marks::Line).svg().is_none());
    }

    #[test]
    fn thinning_keeps_the_extremes() {
        let mut points: Vec<_> = (0..20_000).map(|x| (f64::from(x), f64::from(x % 10))).collect();
        points[12_345].1 = 100.0;
        let svg = chart(points, Marks::Line).svg().unwrap();
        let line = line(&svg);
        // Four in each of the 601 pixel columns.
        assert!(line.len() <= 4 * 601, "{} points", line.len());
        // The top of the grid, at value 100.
        assert_eq!(line.iter().filter(|point| point.1 == 56.0).count(), 1);
        assert!(svg.len() < 50_000, "{} bytes", svg.len());
    }

    #[test]
    fn several_lines_have_a_legend() {
        let mut two = chart(vec![(1.0, 2.0)], Marks::Line);
        assert_eq!(count(&chart(vec![(1.0, 2.0)], Marks::Line).svg().unwrap(), ">line</text>"), 0);
        two.series.push(Series {
            name: "other".into(),
            ..chart(vec![(1.0, 3.0)], Marks::Line).series.remove(0)
        });
        let svg = two.svg().unwrap();
        assert_eq!((count(&svg, ">line</text>"), count(&svg, ">other</text>")), (1, 1));
    }
}
