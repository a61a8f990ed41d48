"""The embedded queue: an SQLite file shared by the services and clients of one machine."""
