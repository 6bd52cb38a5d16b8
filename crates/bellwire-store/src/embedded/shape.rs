//! An endpoint's shape as the JSON of its column. Absent members are defaults, so that a later version can add some.

use super::codec;
use super::fault::Fault;
use bellwire_model::{ContentFilter, FilterSource, Format, Metadata, Shape, Timestamp, Transformation};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct StoredShape {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    filter: Option<StoredFilter>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    transformation: Option<StoredTransformation>,
    /// `None`: JSON.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    format: Option<StoredFormat>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    content_type: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredFormat {
    Xml,
    Form,
}

#[derive(Serialize, Deserialize)]
struct StoredTransformation {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    code: Option<String>,
    enabled: bool,
    #[serde(skip_serializing_if = "Metadata::is_empty", default)]
    variables: Metadata,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    updated_at: Option<i64>,
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
    let transformation = shape.transformation.as_ref().map(|transformation| StoredTransformation {
        code: transformation.code.as_deref().map(str::to_owned),
        enabled: transformation.enabled,
        variables: transformation.variables.clone(),
        updated_at: transformation.updated_at.map(Timestamp::as_micros),
    });
    let format = match shape.format {
        Format::Json => None,
        Format::Xml => Some(StoredFormat::Xml),
        Format::Form => Some(StoredFormat::Form),
    };
    Some(codec::json(&StoredShape { filter, transformation, format, content_type: shape.content_type.clone() }))
}

/// From the column.
pub(super) fn read(column: Option<String>) -> Result<Shape, Fault> {
    let Some(text) = column else { return Ok(Shape::default()) };
    let stored: StoredShape = codec::from_json("an endpoint's shape", &text)?;
    let filter = stored.filter.map(|filter| match filter {
        StoredFilter::Cel(text) => FilterSource::Cel(text),
        StoredFilter::CloudEvents(text) => FilterSource::CloudEvents(text),
    });
    let transformation = stored.transformation.map(|transformation| Transformation {
        code: transformation.code.map(Into::into),
        enabled: transformation.enabled,
        variables: transformation.variables,
        updated_at: transformation.updated_at.map(Timestamp::from_micros),
    });
    let format = match stored.format {
        None => Format::Json,
        Some(StoredFormat::Xml) => Format::Xml,
        Some(StoredFormat::Form) => Format::Form,
    };
    Ok(Shape { filter: filter.map(ContentFilter::new), transformation, format, content_type: stored.content_type })
}
