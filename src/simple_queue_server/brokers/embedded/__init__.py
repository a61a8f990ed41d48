"""The embedded queue: an SQLite file that services and clients of one machine share."""
