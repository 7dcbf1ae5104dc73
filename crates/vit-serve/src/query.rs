//! Query parameters.

use std::str::FromStr;

use crate::Problem;
use crate::model::{ExplainOptions, Patches, PredictOptions};

/// The query parameters of a prediction or explanation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// The run whose model to use.
    pub(crate) run: Option<String>,
    pub(crate) predict: PredictOptions,
    pub(crate) explain: ExplainOptions,
}

const KNOWN: &str = "run, top_k, invert, fit; for /v1/explain also patch and walk";

impl Query {
    /// # Errors
    /// If a name is unknown, or a value is malformed.
    pub(crate) fn parse(query: &str) -> Result<Self, Problem> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value)?;
            match name {
                "run" => parsed.run = Some(value),
                "top_k" => parsed.predict.top_k = Some(number(name, &value, 1)?),
                "invert" => parsed.predict.invert = Some(value),
                "fit" => parsed.predict.fit = Some(value),
                "patch" if value == "all" => parsed.explain.patches = Some(Patches::All),
                "patch" => parsed.explain.patches = Some(Patches::One(number(name, &value, 0)?)),
                "walk" => {
                    let (layer, head) = value.split_once('.').ok_or_else(|| {
                        let detail =
                            format!("walk: expected LAYER.HEAD, both from 0, got {value:?}");
                        Problem::new(400, detail)
                    })?;
                    parsed.explain.walk = Some((number(name, layer, 0)?, number(name, head, 0)?));
                }
                _ => {
                    let detail = format!("unknown query parameter {name:?}");
                    return Err(
                        Problem::new(400, detail).hint(format!("the known ones are {KNOWN}"))
                    );
                }
            }
        }
        Ok(parsed)
    }
}

fn number<N>(name: &str, text: &str, least: N) -> Result<N, Problem>
where
    N: FromStr + PartialOrd + Copy + std::fmt::Display,
{
    text.parse().ok().filter(|number| *number >= least).ok_or_else(|| {
        Problem::new(400, format!("{name}: expected a whole number from {least}, got {text:?}"))
    })
}

/// Decodes percent-encoding.
pub(crate) fn decoded(text: &str) -> Result<String, Problem> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
                let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
                rest = after.get(2..).unwrap_or_default();
                byte.ok_or_else(|| Problem::new(400, format!("{text:?} is not percent-encoded")))?
            }
            other => *other,
        });
    }
    String::from_utf8(bytes)
        .map_err(|_| Problem::new(400, format!("expected UTF-8 text, got {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_parsed_by_name() {
        let query = Query::parse("run=a%20b%2Fc&top_k=3&invert=never&patch=all&walk=1.2").unwrap();
        assert_eq!(query.run.as_deref(), Some("a b/c"));
        assert_eq!(
            (query.predict.top_k, query.predict.invert.as_deref()),
            (Some(3), Some("never"))
        );
        assert_eq!(
            query.explain,
            ExplainOptions { patches: Some(Patches::All), walk: Some((1, 2)) }
        );
        assert_eq!(Query::parse("").unwrap(), Query::default());
    }

    #[test]
    fn unknown_names_and_malformed_values_are_named() {
        for (query, named) in [
            ("top=3", "\"top\""),
            ("top_k=0", "from 1"),
            ("top_k=x", "\"x\""),
            ("walk=1", "LAYER.HEAD"),
            ("patch=-1", "patch"),
            ("run=%f", "percent"),
            ("run=%ff", "UTF-8"),
        ] {
            let problem = Query::parse(query).unwrap_err();
            assert!(problem.detail().contains(named), "{query}: {}", problem.detail());
        }
    }
}
