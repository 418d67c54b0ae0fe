"""The schemas of channels: their files, and whether a message fits. The only folder that knows jsonschema-rs."""
