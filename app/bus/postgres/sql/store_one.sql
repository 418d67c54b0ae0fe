SELECT abide.store_one($1, $2, $3, $4)
