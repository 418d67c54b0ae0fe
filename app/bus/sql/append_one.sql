SELECT false, 1, abide.append_one($1, $2, $3, $4), NULL::bytea
