-- What a tenant has settled for itself, as JSON. A tenant without a row has settled nothing.

-- +goose Up

CREATE TABLE tenant_settings (
    tenant   BYTEA PRIMARY KEY,
    settings TEXT NOT NULL
);
