-- Up to where the audit log was handed to each place that it is streamed to. Bookkeeping: written without an entry of the log.

-- +goose Up

CREATE TABLE audit_sinks (
    name TEXT ${BYTEWISE} PRIMARY KEY,
    next BIGINT NOT NULL
);
