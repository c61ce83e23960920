-- Roles and restrictions of API keys, and the secret before a rotation. What a key could do it still can: the root and the whole log have
-- scopes of their own now, and go to those who had them by settings:write; tenants go to the owner.

-- +goose Up

ALTER TABLE api_keys ADD COLUMN role TEXT NOT NULL DEFAULT '';
ALTER TABLE api_keys ADD COLUMN restrictions TEXT NOT NULL DEFAULT '';
ALTER TABLE api_keys ADD COLUMN rotated_at BIGINT;
ALTER TABLE api_keys ADD COLUMN rotated_by TEXT NOT NULL DEFAULT '';
ALTER TABLE api_keys ADD COLUMN previous_prefix TEXT;
ALTER TABLE api_keys ADD COLUMN previous_mac BYTEA;
ALTER TABLE api_keys ADD COLUMN previous_until BIGINT;
CREATE UNIQUE INDEX api_keys_previous ON api_keys (brand, previous_prefix) WHERE previous_prefix IS NOT NULL;

UPDATE api_keys SET scopes = scopes || ' root:read root:write' WHERE scopes LIKE '%settings:write%';
UPDATE api_keys SET scopes = scopes || ' audit:export' WHERE scopes LIKE '%settings:write%' AND scopes LIKE '%audit:read%';
UPDATE api_keys SET role = 'owner', scopes = scopes || ' backends:read backends:write nodes:read tenants:read tenants:write backup:read backup:write'
    WHERE created_by = 'system';
