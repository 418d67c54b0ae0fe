SELECT known, i, "offset", hash FROM abide.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
