-- How long the parts of an attempt took. NULL: did not take place, or not to its end; and all attempts from before this.
ALTER TABLE attempt ADD COLUMN dns_us INTEGER;
ALTER TABLE attempt ADD COLUMN connect_us INTEGER;
ALTER TABLE attempt ADD COLUMN tls_us INTEGER;
ALTER TABLE attempt ADD COLUMN first_byte_us INTEGER;
