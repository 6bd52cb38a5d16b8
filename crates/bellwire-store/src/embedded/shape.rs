//! An endpoint's shape as the JSON of its column. Absent members are defaults, so that a later version can add some.

use super::codec;
use super::fault::Fault;
use bellwire_model::{ContentFilter, FilterSource, Shape};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct StoredShape {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    filter: Option<StoredFilter>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredFilter {
    Cel(String),
    CloudEvents(String),
}

/// For the column; NULL for the default.
pub(super) fn stored(shape: &Shape) -> Option<String> {
    if *shape == Shape::default() {
        return None;
    }
    let filter = shape.filter.as_ref().map(|filter| match &filter.source {
        FilterSource::Cel(text) => StoredFilter::Cel(text.clone()),
        FilterSource::CloudEvents(text) => StoredFilter::CloudEvents(text.clone()),
    });
    Some(codec::json(&StoredShape { filter }))
}

/// From the column.
pub(super) fn read(column: Option<String>) -> Result<Shape, Fault> {
    let Some(text) = column else { return Ok(Shape::default()) };
    let stored: StoredShape = codec::from_json("an endpoint's shape", &text)?;
    let filter = stored.filter.map(|filter| match filter {
        StoredFilter::Cel(text) => FilterSource::Cel(text),
        StoredFilter::CloudEvents(text) => FilterSource::CloudEvents(text),
    });
    Ok(Shape { filter: filter.map(ContentFilter::new) })
}
