pub(crate) mod builder;
mod properties;
mod rules;
