mod builder;
mod properties;
mod rules;
