"""Amazon SQS, by aiobotocore (the extra ``[sqs]``)."""
