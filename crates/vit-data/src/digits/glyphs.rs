//! The shapes of the digits: pen strokes through a few points.
//!
//! A point is (x, y) in the unit square, x to the right and y down. A stroke is a smooth curve through its points, with
//! a sharp turn at a corner.

/// A point on a stroke.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knot {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) turn: Turn,
}

/// How a stroke passes a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Smooth,
    Sharp,
}

/// The strokes of one variant of a digit.
pub(super) type Glyph = &'static [&'static [Knot]];

/// The variants of each digit, equally likely.
pub(super) const GLYPHS: [&[Glyph]; 10] =
    [ZEROS, ONES, TWOS, THREES, FOURS, FIVES, SIXES, SEVENS, EIGHTS, NINES];

const ZEROS: &[Glyph] = &[
    // A loop that closes at its top.
    &[&[
        at(0.52, 0.00), at(0.30, 0.10), at(0.17, 0.36), at(0.17, 0.66), at(0.32, 0.93),
        at(0.54, 0.99), at(0.76, 0.83), at(0.84, 0.52), at(0.76, 0.19), at(0.54, 0.01),
        at(0.36, 0.06),
    ]],
    // A loop written from the right, not quite closed.
    &[&[
        at(0.68, 0.08), at(0.44, 0.00), at(0.22, 0.18), at(0.14, 0.50), at(0.24, 0.86),
        at(0.50, 1.00), at(0.74, 0.84), at(0.83, 0.52), at(0.76, 0.24), at(0.60, 0.12),
    ]],
];

const ONES: &[Glyph] = &[
    // A single stroke.
    &[&[at(0.50, 0.00), at(0.50, 0.50), at(0.50, 1.00)]],
    // With an upstroke.
    &[&[at(0.30, 0.22), corner(0.53, 0.00), at(0.52, 0.50), at(0.51, 1.00)]],
    // With an upstroke and a foot.
    &[
        &[at(0.30, 0.20), corner(0.52, 0.00), at(0.51, 0.50), at(0.51, 0.99)],
        &[at(0.28, 0.99), at(0.52, 1.00), at(0.74, 0.98)],
    ],
];

const TWOS: &[Glyph] = &[
    // A bow, a slope and a flat foot.
    &[&[
        at(0.18, 0.24), at(0.32, 0.05), at(0.55, 0.00), at(0.77, 0.13), at(0.77, 0.35),
        at(0.58, 0.61), at(0.36, 0.83), corner(0.16, 0.98), at(0.50, 0.96), at(0.86, 0.97),
    ]],
    // With a loop at the lower left.
    &[&[
        at(0.20, 0.18), at(0.42, 0.01), at(0.68, 0.08), at(0.75, 0.31), at(0.60, 0.60),
        at(0.36, 0.86), at(0.18, 0.96), at(0.12, 0.86), at(0.25, 0.78), at(0.48, 0.88),
        at(0.70, 0.98), at(0.90, 0.90),
    ]],
];

const THREES: &[Glyph] = &[
    // Two bows.
    &[&[
        at(0.20, 0.13), at(0.40, 0.01), at(0.66, 0.04), at(0.76, 0.21), at(0.62, 0.41),
        corner(0.40, 0.48), at(0.66, 0.52), at(0.81, 0.70), at(0.70, 0.92), at(0.44, 1.00),
        at(0.18, 0.90),
    ]],
    // A flat top, a slope and a bow.
    &[&[
        at(0.20, 0.03), at(0.46, 0.03), corner(0.76, 0.02), at(0.60, 0.22), corner(0.42, 0.42),
        at(0.66, 0.46), at(0.80, 0.67), at(0.69, 0.91), at(0.43, 1.00), at(0.17, 0.91),
    ]],
];

const FOURS: &[Glyph] = &[
    // Open at the top: a hook and a stem.
    &[
        &[at(0.24, 0.02), at(0.20, 0.30), corner(0.17, 0.56), at(0.50, 0.55), at(0.84, 0.52)],
        &[at(0.72, 0.04), at(0.69, 0.50), at(0.67, 1.00)],
    ],
    // Closed: one stroke down and across, then the stem.
    &[
        &[at(0.62, 0.00), at(0.38, 0.34), corner(0.12, 0.66), at(0.50, 0.65), at(0.90, 0.64)],
        &[at(0.63, 0.00), at(0.63, 0.50), at(0.62, 1.00)],
    ],
    // One rounded stroke that returns up and goes down the stem.
    &[&[
        at(0.26, 0.04), at(0.18, 0.30), at(0.24, 0.50), at(0.48, 0.50), at(0.68, 0.32),
        corner(0.76, 0.04), at(0.72, 0.50), at(0.68, 1.00),
    ]],
];

const FIVES: &[Glyph] = &[
    // The body, then the hat.
    &[
        &[
            at(0.28, 0.03), at(0.26, 0.22), corner(0.24, 0.45), at(0.50, 0.39), at(0.75, 0.52),
            at(0.79, 0.74), at(0.62, 0.95), at(0.38, 1.00), at(0.16, 0.91),
        ],
        &[at(0.28, 0.03), at(0.54, 0.03), at(0.84, 0.01)],
    ],
    // One stroke, starting at the right.
    &[&[
        at(0.82, 0.02), at(0.56, 0.03), corner(0.30, 0.05), at(0.27, 0.24), corner(0.24, 0.43),
        at(0.52, 0.42), at(0.73, 0.56), at(0.74, 0.78), at(0.52, 0.98), at(0.18, 0.97),
    ]],
];

const SIXES: &[Glyph] = &[
    // A bow down into a round loop.
    &[&[
        at(0.68, 0.00), at(0.42, 0.17), at(0.24, 0.46), at(0.20, 0.76), at(0.36, 0.98),
        at(0.62, 0.96), at(0.78, 0.77), at(0.68, 0.57), at(0.44, 0.54), at(0.24, 0.70),
    ]],
    // Nearly straight, into a small loop.
    &[&[
        at(0.50, 0.00), at(0.32, 0.28), at(0.20, 0.60), at(0.23, 0.88), at(0.45, 1.00),
        at(0.68, 0.90), at(0.72, 0.72), at(0.56, 0.62), at(0.36, 0.72), at(0.27, 0.88),
    ]],
];

const SEVENS: &[Glyph] = &[
    // A bar and a slope.
    &[&[at(0.16, 0.06), at(0.46, 0.05), corner(0.82, 0.03), at(0.62, 0.48), at(0.46, 1.00)]],
    // With a stroke across.
    &[
        &[at(0.18, 0.05), at(0.48, 0.05), corner(0.82, 0.04), at(0.60, 0.50), at(0.42, 1.00)],
        &[at(0.34, 0.52), at(0.56, 0.50), at(0.78, 0.48)],
    ],
    // With a serif, and round at the turn.
    &[&[
        at(0.17, 0.22), corner(0.18, 0.06), at(0.48, 0.08), at(0.76, 0.05), at(0.75, 0.24),
        at(0.60, 0.56), at(0.52, 1.00),
    ]],
];

const EIGHTS: &[Glyph] = &[
    // One stroke that crosses itself.
    &[&[
        at(0.70, 0.10), at(0.48, 0.00), at(0.27, 0.14), at(0.32, 0.36), at(0.54, 0.51),
        at(0.74, 0.72), at(0.68, 0.94), at(0.46, 1.00), at(0.25, 0.88), at(0.28, 0.66),
        at(0.50, 0.49), at(0.70, 0.31), at(0.72, 0.13), at(0.62, 0.04),
    ]],
    // Two loops, one on the other.
    &[
        &[
            at(0.52, 0.47), at(0.30, 0.36), at(0.28, 0.13), at(0.50, 0.00), at(0.72, 0.12),
            at(0.70, 0.36), at(0.50, 0.47),
        ],
        &[
            at(0.50, 0.47), at(0.26, 0.59), at(0.22, 0.84), at(0.48, 1.00), at(0.75, 0.87),
            at(0.74, 0.61), at(0.52, 0.47),
        ],
    ],
];

const NINES: &[Glyph] = &[
    // A loop and a straight stem.
    &[&[
        at(0.74, 0.14), at(0.52, 0.00), at(0.28, 0.10), at(0.20, 0.32), at(0.36, 0.49),
        at(0.60, 0.42), corner(0.75, 0.12), at(0.72, 0.52), at(0.67, 1.00),
    ]],
    // A loop and a tail that turns to the left.
    &[&[
        at(0.72, 0.20), at(0.52, 0.02), at(0.28, 0.12), at(0.24, 0.36), at(0.46, 0.48),
        at(0.66, 0.36), corner(0.74, 0.14), at(0.76, 0.48), at(0.68, 0.82), at(0.46, 1.00),
        at(0.24, 0.92),
    ]],
];

/// A smooth point.
const fn at(x: f64, y: f64) -> Knot {
    Knot { x, y, turn: Turn::Smooth }
}

/// A corner.
const fn corner(x: f64, y: f64) -> Knot {
    Knot { x, y, turn: Turn::Sharp }
}
