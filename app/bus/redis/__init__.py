"""Redis and what speaks its protocol, such as Valkey: ``sessions`` connects; the rest are the engines that use it."""
