-- How far ahead of the clock the buckets of rate limits are. What is lost of this is a burst, so it is bookkeeping: no entry tells of it.

-- +goose Up

CREATE TABLE rate_buckets (
    kind   TEXT ${BYTEWISE} NOT NULL,
    id     BYTEA NOT NULL,
    filled BIGINT NOT NULL,
    got    BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
) ${CLUSTERED};
