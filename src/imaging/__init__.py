"""Pictures and pairs: decoding, pairs CSVs, the cache of decoded pairs, foreground colours, drawing."""
