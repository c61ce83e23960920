-- What a principal has asked for and nobody has settled is counted. Everything is added: the statements of the release before go on to run.

-- +goose Up

CREATE INDEX approvals_open ON approvals (tenant, requested_by, expires_at) WHERE used_at IS NULL AND rejected_at IS NULL;

-- +goose Down

DROP INDEX approvals_open;
