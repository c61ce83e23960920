-- The plan of a tenant, by the name that the configuration gives it; '' is the default plan.

-- +goose Up

ALTER TABLE tenants ADD COLUMN plan TEXT NOT NULL DEFAULT '';
