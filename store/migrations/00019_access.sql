-- Access control. Everything is added: the statements of the release before go on to run.

-- +goose Up

-- Ids of grants are chosen within a tenant: given is that id, and id the row's own. Where given is NULL, as in rows of the release before, they are
-- the same. named is how the principal was written, for people.
ALTER TABLE grants ADD COLUMN given BYTEA;
ALTER TABLE grants ADD COLUMN named TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX grants_given ON grants (tenant, (COALESCE(given, id)));
CREATE INDEX grants_listed ON grants (tenant, key_id, (COALESCE(given, id)));

-- Who but the key itself has ever been shown a secret of it, and when somebody was last; NULL: when it was made.
ALTER TABLE api_keys ADD COLUMN makers TEXT NOT NULL DEFAULT '';
ALTER TABLE api_keys ADD COLUMN shown_at BIGINT;

-- Of whom the credential that voted comes, and since when it was its holder's alone.
ALTER TABLE approval_votes ADD COLUMN kin TEXT NOT NULL DEFAULT '';
ALTER TABLE approval_votes ADD COLUMN since BIGINT;

-- Operations of a tenant on a day (days since 1970-01-01, UTC) that nodes have set aside.
CREATE TABLE tenant_operations (
    tenant BYTEA NOT NULL,
    day    BIGINT NOT NULL,
    taken  BIGINT NOT NULL,
    PRIMARY KEY (tenant)
) ${CLUSTERED};
