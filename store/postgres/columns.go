package postgres

import (
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// idColumn is a UUID in a column of 16 bytes.
type idColumn uuid.UUID

// ScanBytes implements pgtype.BytesScanner.
func (c *idColumn) ScanBytes(b []byte) error {
	if len(b) != len(c) {
		return corrupted("an id in the store is damaged", nil)
	}
	copy(c[:], b)
	return nil
}

// nullIDColumn is an idColumn where NULL is the zero id.
type nullIDColumn uuid.UUID

// ScanBytes implements pgtype.BytesScanner.
func (c *nullIDColumn) ScanBytes(b []byte) error {
	if b == nil {
		*c = nullIDColumn{}
		return nil
	}
	return (*idColumn)(c).ScanBytes(b)
}

// timeColumn is a time in a column of microseconds; NULL is the zero time.
type timeColumn time.Time

// ScanInt64 implements pgtype.Int64Scanner.
func (c *timeColumn) ScanInt64(v pgtype.Int8) error {
	*c = timeColumn{}
	if v.Valid {
		*c = timeColumn(time.UnixMicro(v.Int64).UTC())
	}
	return nil
}

// flagColumn is a boolean in a column of numbers.
type flagColumn bool

// ScanInt64 implements pgtype.Int64Scanner.
func (c *flagColumn) ScanInt64(v pgtype.Int8) error {
	*c = flagColumn(v.Valid && v.Int64 != 0)
	return nil
}

// micros is a time for a column that may be NULL.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}
