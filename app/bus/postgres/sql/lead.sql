-- Take or keep the lead of moving the outbox.
-- Parameters: $1 for how many milliseconds; 0 gives the lead back.
-- Returns: true if the lead is ours, false if another worker has it, NULL if nobody has and the outbox is empty.
-- Called by: listen/listen_session.py
SELECT abide.lead($1)
