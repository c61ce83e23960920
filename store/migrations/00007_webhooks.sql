-- Receivers of events, and how the deliveries to them go.

-- +goose Up

-- secret and prior are sealed; filter is JSON.
CREATE TABLE webhooks (
    id          BYTEA PRIMARY KEY,
    tenant      BYTEA NOT NULL,
    name        TEXT NOT NULL,
    url         TEXT NOT NULL,
    filter      TEXT NOT NULL,
    state       TEXT NOT NULL,
    reason      TEXT NOT NULL,
    secret      BYTEA NOT NULL,
    prior       BYTEA,
    prior_until BIGINT,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    created_by  TEXT NOT NULL,
    revision    BIGINT NOT NULL
);
CREATE INDEX webhooks_tenant ON webhooks (tenant, id);
CREATE INDEX webhooks_active ON webhooks (id) WHERE state = 'active';

-- Bookkeeping: written without an entry of the audit log.
CREATE TABLE webhook_progress (
    webhook      BYTEA PRIMARY KEY,
    next         BIGINT NOT NULL,
    attempts     BIGINT NOT NULL,
    try_at       BIGINT,
    last_success BIGINT,
    last_failure BIGINT,
    last_status  BIGINT NOT NULL,
    last_error   TEXT NOT NULL,
    delivered    BIGINT NOT NULL,
    given_up     BIGINT NOT NULL
);
